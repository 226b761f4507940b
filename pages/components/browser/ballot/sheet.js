// The prompt and its answers, drawn alike: same width, same font, scrolled together.

import { element } from "../dom.js"
import { differences } from "./diff.js"
import { drawNodes } from "./nodes.js"

const STEP_PX = 90
// Zero-width and control characters alone look like an empty box.
const isBlank = (text) => /^[\s\p{Cc}\p{Cf}]*$/u.test(text)
const ROLES = { user: "Prompt", system: "System", assistant: "Earlier answer" }

export class Sheet {
  constructor({ onView, onSide }) {
    this.onView = onView
    this.onSide = onSide
    this.view = "drawn" // drawn, raw, differences
    this.prompt = element("section", "bt-prompt")
    this.prompt.setAttribute("aria-label", "Prompt")
    this.turns = element("div", "bt-turns")
    this.turns.tabIndex = 0
    this.more = element("button", "bt-quiet bt-more", "Show all")
    this.more.type = "button"
    this.more.onclick = () => this.unfold(!this.isUnfolded)
    this.prompt.append(this.turns, this.more)
    this.tabs = element("div", "bt-tabs")
    this.answers = element("div", "bt-answers")
    this.panes = ["A", "B"].map((side) => this.pane(side))
    this.answers.append(...this.panes.map((pane) => pane.root))
    this.answers.onscroll = () => this.markTab()
    this.nodes = [this.prompt, this.tabs, this.answers]
  }

  pane(side) {
    const root = element("section", "bt-pane")
    const title = element("h2", "bt-title", `Answer ${side}`)
    const body = element("div", "bt-body")
    title.id = `bt-answer-${side}`
    root.setAttribute("aria-labelledby", title.id)
    body.tabIndex = 0
    body.setAttribute("role", "group")
    body.setAttribute("aria-labelledby", title.id)
    root.append(title, body)
    const tab = element("button", "bt-tab", `Answer ${side}`)
    tab.type = "button"
    tab.onclick = () => this.turnTo(side)
    this.tabs.appendChild(tab)
    const pane = { side, root, title, body, tab }
    body.onscroll = () => this.follow(pane)
    return pane
  }

  // Draw a battle from its top.
  show(battle) {
    this.battle = battle
    this.isSingle = Boolean(battle.single) || battle.b === null || battle.b === undefined
    this.panes[1].root.hidden = this.isSingle
    this.tabs.hidden = this.isSingle
    this.answers.dataset.single = this.isSingle ? "yes" : "no"
    this.panes[0].title.textContent = this.isSingle ? "Answer" : "Answer A"
    if (this.view === "differences") this.view = "drawn"
    this.drawPrompt()
    this.drawAnswers()
    this.answers.scrollTo({ left: 0, behavior: "instant" })
    this.seen = new Set()
    this.markTab()
  }

  // The side that a narrow screen has not shown yet, or null. Wide screens show both.
  get unseen() {
    const isNarrow = !this.isSingle && this.answers.scrollWidth > this.answers.clientWidth + 8
    return isNarrow ? this.panes.find((pane) => !this.seen.has(pane.side))?.side ?? null : null
  }

  turnTo(side) {
    this.answers.scrollTo({ left: side === "A" ? 0 : this.answers.scrollWidth })
  }

  drawPrompt() {
    const { prompt, prompt_nodes: nodes } = this.battle
    const many = prompt.length > 1
    this.turns.replaceChildren(...prompt.map(([role, text], index) => {
      const turn = element("div", "bt-turn")
      turn.dataset.role = role
      turn.appendChild(element(index === prompt.length - 1 ? "h2" : "h3", "bt-role", many && role === "user" ? (index === prompt.length - 1 ? "Prompt, last turn" : "User") : ROLES[role] || role))
      turn.appendChild(this.textOf(text, nodes?.[index], this.view !== "raw"))
      return turn
    }))
    this.unfold(false)
    this.isLong = this.turns.scrollHeight > this.turns.clientHeight + 8
    this.prompt.dataset.long = this.isLong ? "yes" : "no"
    this.more.hidden = !this.isLong
    this.turns.scrollTop = many ? this.turns.scrollHeight : 0
  }

  drawAnswers() {
    const { a, b, a_nodes: nodesA, b_nodes: nodesB } = this.battle
    const compared = this.view === "differences" && !this.isSingle ? differences(a, b) : null
    this.tooLong = this.view === "differences" && !compared
    const texts = [[a, nodesA], [b, nodesB]]
    this.panes.forEach((pane, index) => {
      const [text, nodes] = texts[index]
      if (text === null || text === undefined) pane.body.replaceChildren()
      else pane.body.replaceChildren(compared ? marked(compared[index]) : this.textOf(text, nodes, this.view === "drawn"))
      pane.body.scrollTop = pane.expected = 0
    })
    this.onView(this.view)
  }

  textOf(text, nodes, isDrawn) {
    const box = element("div", "bt-text")
    if (isBlank(text)) box.appendChild(element("p", "bt-empty", "(empty)"))
    else if (isDrawn && nodes) drawNodes(nodes, box)
    else box.appendChild(element("div", "bt-raw", text))
    box.dataset.raw = isDrawn && nodes ? "no" : "yes"
    return box
  }

  // Switch between drawn text and `view`; the place in the text is kept.
  toggle(view) {
    if (!this.battle) return
    const share = shareOf(this.panes[0].body)
    const promptTop = this.turns.scrollTop, unfolded = this.isUnfolded
    this.view = this.view === view ? "drawn" : view
    this.drawPrompt()
    this.unfold(unfolded)
    this.turns.scrollTop = promptTop
    this.drawAnswers()
    for (const pane of this.panes) this.place(pane, share)
  }

  unfold(isUnfolded) {
    this.isUnfolded = isUnfolded
    this.prompt.dataset.unfolded = isUnfolded ? "yes" : "no"
    this.more.textContent = isUnfolded ? "Show less" : "Show all"
    this.more.setAttribute("aria-expanded", String(isUnfolded))
  }

  // Scroll the other answer to the same share of its length.
  follow(pane) {
    if (Math.abs(pane.body.scrollTop - pane.expected) < 2) return
    pane.expected = pane.body.scrollTop
    for (const other of this.panes) if (other !== pane) this.place(other, shareOf(pane.body))
  }

  place(pane, share) {
    pane.expected = Math.round(share * (pane.body.scrollHeight - pane.body.clientHeight))
    pane.body.scrollTop = pane.expected
  }

  // Scroll by steps: both answers, or the page where it is short.
  scroll(steps) {
    const longest = this.panes.reduce((one, other) => (other.body.scrollHeight - other.body.clientHeight > one.body.scrollHeight - one.body.clientHeight ? other : one))
    longest.body.scrollTop += steps * STEP_PX
  }

  markTab() {
    const shown = this.answers.scrollLeft > this.answers.clientWidth / 2 ? "B" : "A"
    this.seen?.add(shown)
    if (shown !== this.side) this.onSide(shown)
    this.side = shown
    for (const pane of this.panes) {
      pane.tab.setAttribute("aria-pressed", String(pane.side === shown))
      pane.tab.dataset.seen = this.seen?.has(pane.side) ? "yes" : "no"
    }
  }
}

function shareOf(body) {
  const rest = body.scrollHeight - body.clientHeight
  return rest > 0 ? body.scrollTop / rest : 0
}

function marked(parts) {
  const box = element("div", "bt-text")
  const raw = element("div", "bt-raw")
  for (const [text, differs] of parts) raw.appendChild(differs ? element("mark", "bt-only", text) : document.createTextNode(text))
  box.dataset.raw = "yes"
  box.appendChild(raw)
  return box
}
