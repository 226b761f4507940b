// The selected line of a conversation: questions, and answers alone or side by side, with what can be done to each.

import { element } from "../dom.js"
import { AnswerView } from "./answer.js"
import { resultBox } from "./calls.js"
import { splitFiles } from "./files.js"
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
      if (turn.kind === "answers") parts.push(this.turn(turn, known, turn === document.turns.at(-1)))
      else parts.push(turn.kind === "question" ? this.question(turn) : this.result(turn))
    }
    this.root.replaceChildren(...parts)
  }

  get isEditing() {
    return Boolean(this.root.querySelector(".pg-edit"))
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
    const { words, files } = splitFiles(turn.text)
    const bubble = element("div", "pg-bubble", words)
    bubble.append(...files.map(fileOf))
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

  // What a tool returned. Editing it sends all results of its answer again, in a new branch.
  result(turn) {
    const tools = element("div", "pg-tools")
    if (!this.isFixed) tools.append(iconButton("edit", "Edit", () => this.edit(root, turn)))
    this.addVersions(tools, turn)
    const root = resultBox(turn, tools)
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
      if (!(await this.sendEdited(turn, field.value))) send.disabled = false
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

  sendEdited(turn, text) {
    if (turn.kind !== "result") return this.actions.edit(turn, text)
    const { turns } = this.document
    let first = turns.indexOf(turn), end = first + 1
    while (turns[first - 1].kind === "result") first -= 1
    while (turns[end]?.kind === "result") end += 1
    const results = turns.slice(first, end).map((other) => (other === turn ? text : other.text))
    return this.actions.sendResults(turns[first - 1].selected, results)
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
    if (many) { root.append(this.voteBar(turn)); this.addTogether(root, turn) }
    return root
  }

  // What can be done to answers side by side as a whole.
  addTogether(root, turn) {
    const tools = element("div", "pg-tools")
    const cut = turn.answers.filter((answer) => answer.can_continue)
    const isDone = turn.answers.every(({ status }) => status !== "running")
    if (isDone && cut.length && !this.isFixed) {
      const words = cut.length === turn.answers.length ? "Continue all" : "Continue those cut off"
      tools.append(iconButton("resume", words, () => this.actions.continueFrom(cut[0], { together: true }), { words }))
    }
    this.addVersions(tools, turn)
    if (tools.childNodes.length) root.append(tools)
  }

  voteBar(turn) {
    const bar = element("div", "pg-vote")
    if (turn.vote) { bar.append(element("p", "pg-said", `Your vote: ${VOTED[turn.vote] || `${turn.vote} is ${turn.answers.length === 2 ? "better" : "best"}`}`)); return bar }
    const wasStopped = turn.answers.some(({ status }) => status === "stopped")
    if (turn.hidden && wasStopped && !this.isFixed) bar.append(element("p", "pg-note", "Continue what you stopped, or write it again, to vote."))
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

function fileOf({ name, text }) {
  const box = element("details", "pg-file")
  const size = text.length < 1000 ? `${text.length} characters` : `${Math.round(text.length / 1000).toLocaleString("en")} k characters`
  const head = element("summary")
  head.append(element("bdi", "", name), element("span", "pg-file-size", size))
  box.append(head, element("pre", "pg-raw", text))
  return box
}

function divider(leftOut) {
  const node = element("div", "pg-divider")
  node.setAttribute("role", "separator")
  node.append(element("span", "", leftOut === 1 ? "Earlier turn not sent" : "Earlier turns not sent"))
  node.title = "The context is full, so the turns above were left out of the newest prompt."
  return node
}
