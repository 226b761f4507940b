// The selected line of a conversation: questions, and answers alone or side by side, with what can be done to each.

import { element } from "../dom.js"
import { AnswerView } from "./answer.js"
import { copy, iconButton } from "./icons.js"

const VOTES_OF_TWO = [["A", "A is better"], ["B", "B is better"], ["TIE", "Tie"], ["BOTH_BAD", "Both bad"]]
const VOTED = { TIE: "tie", BOTH_BAD: "both bad" }

export class Transcript {
  constructor(actions) {
    this.actions = actions
    this.root = element("div", "pg-turns")
    this.root.setAttribute("role", "log")
    this.root.setAttribute("aria-label", "Conversation")
    this.answers = new Map()
    this.voteNote = ""
    this.isFixed = false
  }

  show(document) {
    this.document = document
    const known = this.answers
    this.answers = new Map()
    const parts = []
    for (const turn of document?.turns || []) {
      if (turn.id === document.context.first_sent || turn.answers?.some(({ id }) => id === document.context.first_sent)) parts.push(divider(document.context.left_out))
      parts.push(turn.kind === "question" ? this.question(turn) : this.turn(turn, known, turn === document.turns.at(-1)))
    }
    this.root.replaceChildren(...parts)
  }

  busy(words) {
    if (words) this.root.replaceChildren(element("p", "pg-busy", words))
    else if (!this.document) this.root.replaceChildren()
  }

  // Draw a message that is being sent, before the server has it.
  pend(text, columns) {
    const answers = Array.from({ length: columns }, (_, at) => ({ id: `pending-${at}`, text: "", nodes: [], status: "running", usage: {}, side: columns > 1 ? "ABCD"[at] : null }))
    this.root.append(this.question({ id: "pending", text, version: 1, versions: 1, isPending: true }), this.turn({ kind: "answers", answers, version: 1, versions: 1, hidden: true }, new Map(), true))
  }

  grow(event) {
    this.answers.get(event.id)?.grow(event)
  }

  question(turn) {
    const root = element("article", "pg-question")
    root.setAttribute("aria-label", "You")
    const bubble = element("div", "pg-bubble", turn.text)
    const tools = element("div", "pg-tools")
    if (!turn.isPending) {
      tools.append(iconButton("content_copy", "Copy", (event) => copy(turn.text, event.currentTarget)))
      if (!this.isFixed) tools.append(iconButton("edit", "Edit", () => this.edit(root, turn)))
      this.addVersions(tools, turn)
    }
    root.append(bubble, tools)
    root.edit = () => this.edit(root, turn)
    return root
  }

  edit(root, turn) {
    const form = element("form", "pg-edit")
    const field = element("textarea", "pg-field")
    field.value = turn.text
    field.rows = Math.min(12, turn.text.split("\n").length + 1)
    field.setAttribute("aria-label", "Edit the message")
    const row = element("div", "pg-edit-row")
    const cancel = element("button", "pg-plain", "Cancel")
    const send = element("button", "pg-main", "Send")
    cancel.type = "button"
    const close = () => form.replaceWith(...old)
    cancel.onclick = close
    form.onsubmit = async (event) => {
      event.preventDefault()
      if (!field.value.trim()) return
      send.disabled = true
      if (!(await this.actions.edit(turn, field.value))) send.disabled = false
    }
    field.onkeydown = (event) => {
      if (event.key === "Escape") { event.stopPropagation(); close() }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit() }
    }
    row.append(cancel, send)
    form.append(field, row)
    const old = [...root.childNodes]
    root.replaceChildren(form)
    field.focus()
  }

  editLast() {
    const questions = this.root.querySelectorAll(".pg-question")
    questions[questions.length - 1]?.edit()
  }

  turn(turn, known, isLast) {
    const root = element("section", "pg-turn")
    const many = turn.answers.length > 1
    const columns = element("div", "pg-columns")
    columns.dataset.count = String(turn.answers.length)
    for (const answer of turn.answers) {
      const view = known.get(answer.id) || new AnswerView(this.actions)
      view.show(answer, { many, turn, isLast, isFixed: this.isFixed })
      this.answers.set(answer.id, view)
      columns.append(view.root)
    }
    root.append(columns)
    if (many) root.append(this.voteBar(turn))
    if (many && turn.versions > 1) { const tools = element("div", "pg-tools"); this.addVersions(tools, turn); root.append(tools) }
    return root
  }

  voteBar(turn) {
    const bar = element("div", "pg-vote")
    if (turn.vote) { bar.append(element("p", "pg-said", `Your vote: ${VOTED[turn.vote] || `${turn.vote} is better`}`)); return bar }
    if (!turn.votable || this.isFixed) return bar
    const choices = turn.answers.length === 2 ? VOTES_OF_TWO : [...turn.answers.map(({ side }) => [side, `${side} is best`]), ["TIE", "Tie"], ["BOTH_BAD", "All bad"]]
    const row = element("div", "pg-choices")
    choices.forEach(([label, words], at) => {
      const button = element("button", "pg-choice", words)
      button.type = "button"
      button.title = `Key ${at + 1}`
      button.onclick = () => this.actions.vote(turn, label)
      row.append(button)
    })
    bar.append(row, element("p", "pg-note", this.voteNote))
    bar.vote = (number) => row.children[number - 1]?.click()
    return bar
  }

  // Vote on the newest answers that wait for a vote; false if none do.
  voteByKey(number) {
    const bars = [...this.root.querySelectorAll(".pg-vote")].filter((bar) => bar.vote)
    bars.at(-1)?.vote(number)
    return bars.length > 0
  }

  addVersions(tools, turn) {
    if (turn.versions < 2) return
    const at = turn.version - 1
    const go = (step) => this.actions.select(turn.id, turn.rounds[at + step])
    const before = iconButton("chevron_left", "Earlier version", () => go(-1))
    const after = iconButton("chevron_right", "Later version", () => go(1))
    before.disabled = at === 0 || this.isFixed
    after.disabled = at === turn.versions - 1 || this.isFixed
    const box = element("span", "pg-versions")
    box.append(before, element("span", "", `${turn.version}/${turn.versions}`), after)
    tools.append(box)
  }
}

function divider(leftOut) {
  const node = element("div", "pg-divider")
  node.setAttribute("role", "separator")
  node.append(element("span", "", leftOut === 1 ? "Earlier turn not sent" : "Earlier turns not sent"))
  node.title = "The context is full, so the turns above were left out of the newest prompt."
  return node
}
