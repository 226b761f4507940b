// One answer: its Markdown as it grows, its figures, and what can be done to it.

import { element } from "../dom.js"
import { drawNodes } from "../ballot/nodes.js"
import { callBox, resultForm } from "./calls.js"
import { dressCode } from "./code.js"
import { copy, iconButton } from "./icons.js"
import { TokenView } from "./tokens.js"

const ENDS = { length: "reached the length limit", stopped: "stopped by you", tool_calls: "calls a tool" }

export class AnswerView {
  constructor(actions) {
    this.actions = actions
    this.root = element("article", "pg-answer")
    this.head = element("header", "pg-head")
    this.text = element("div", "bt-text pg-text")
    this.foot = element("footer", "pg-foot")
    this.root.append(this.head, this.text, this.foot)
    this.showsTokens = false
  }

  show(answer, { many, turn, isLast, isFixed }) {
    this.answer = answer
    this.many = many
    this.turn = turn
    this.isLast = isLast
    this.isFixed = isFixed
    const isRunning = answer.status === "running"
    this.root.setAttribute("aria-label", many ? `Answer ${answer.side}` : "Answer")
    this.root.setAttribute("aria-busy", String(isRunning))
    this.drawHead()
    if (this.showsTokens && answer.tokens) this.drawTokens()
    else if (!isRunning || answer.nodes.length || !this.text.childNodes.length) this.draw(0, answer.nodes)
    this.root.dataset.running = isRunning ? "yes" : "no"
    this.drawFoot()
  }

  // Replace the blocks after the first `keep` ones.
  draw(keep, nodes) {
    delete this.text.dataset.mode
    while (this.text.childNodes.length > keep) this.text.lastChild.remove()
    drawNodes(nodes, this.text)
    dressCode(this.text)
    if (!this.text.childNodes.length && this.answer.status !== "running" && !this.answer.usage.error && !this.answer.usage.tool_calls) this.text.append(element("p", "bt-empty", "(no text)"))
  }

  grow({ keep, nodes, status, tokens, calls }) {
    this.draw(keep, nodes)
    this.text.hidden = Boolean(calls) && !nodes.length && !keep
    if (calls && status === "running" && !this.turn.hidden) this.foot.replaceChildren(...calls.map(callBox))
    this.root.dataset.running = status === "running" ? "yes" : "no"
    this.root.dataset.begun = "yes"
    if (tokens && !this.turn.hidden) this.count = tokens
  }

  drawHead() {
    this.head.replaceChildren()
    this.head.hidden = !this.many
    if (!this.many) return
    const { side, endpoint, id } = this.answer
    this.head.append(element("strong", "pg-side", side))
    if (endpoint) this.head.append(element("span", "pg-name", endpoint))
    for (const words of this.answer.own || []) this.head.append(element("span", "pg-own", words))
    if (this.turn.vote === side) this.head.append(element("span", "pg-badge", "your vote"))
    if (!this.turn.hidden && this.turn.selected === id) this.head.append(element("span", "pg-badge", "used for the next turn"))
    else if (this.turn.selected && !this.turn.hidden && !this.isFixed && this.answer.status === "done") {
      const use = element("button", "pg-plain", "Use this answer")
      use.type = "button"
      use.onclick = () => this.actions.select(id)
      this.head.append(use)
    }
  }

  drawFoot() {
    const { usage, status } = this.answer
    this.text.hidden = Boolean(usage.tool_calls) && !this.text.childNodes.length
    this.foot.replaceChildren()
    if (status === "running") { if (!this.text.childNodes.length) this.foot.append(waiting(this.turn.hidden && this.many)); return }
    if (usage.reasoning) this.foot.append(reasoningOf(usage.reasoning))
    for (const call of usage.tool_calls || []) this.foot.append(callBox(call))
    if (usage.error) this.foot.append(element("p", "pg-error", usage.error))
    const figures = this.figures()
    if (figures.length) this.foot.append(joined(figures))
    this.foot.append(this.tools())
    this.addResultForm()
  }

  // The newest answer that calls tools waits for what they returned.
  addResultForm() {
    const { answer, turn, isLast, isFixed } = this
    if (!answer.usage.tool_calls || isFixed || turn.hidden || !isLast || (this.many && turn.selected !== answer.id)) return
    if (answer.calls.length) this.foot.append(resultForm(answer.calls, (results) => this.actions.sendResults(answer.id, results)))
    else this.foot.append(element("p", "pg-error", "The call is not complete, so it can't be made. Raise the limit of new tokens, or regenerate."))
  }

  figures() {
    const { usage, endpoint } = this.answer
    if (usage.error && !this.answer.text) return []
    const parts = []
    if (endpoint && !this.many) parts.push(endpoint)
    if (usage.ttft_ms !== undefined) parts.push(`first token ${Math.round(usage.ttft_ms)} ms`)
    if (usage.tok_per_sec !== undefined) parts.push(`${usage.tok_per_sec < 10 ? usage.tok_per_sec.toFixed(1) : Math.round(usage.tok_per_sec)} tokens/s`)
    if (usage.completion_tokens !== undefined) parts.push(usage.completion_tokens === 1 ? "1 token" : `${usage.completion_tokens.toLocaleString("en")} tokens`)
    if (usage.cost_usd !== undefined) parts.push(usage.cost_usd < 0.0001 ? "under $0.0001" : `$${usage.cost_usd.toFixed(usage.cost_usd < 0.01 ? 4 : 2)}`)
    if (usage.canary) parts.push(usage.canary)
    if (ENDS[usage.finish_reason]) parts.push(ENDS[usage.finish_reason])
    return parts
  }

  tools() {
    const { answer, turn, actions } = this
    const tools = element("div", "pg-tools")
    if (answer.text) tools.append(iconButton("content_copy", "Copy", (event) => copy(answer.text, event.currentTarget)))
    if (this.isFixed) return tools
    if (!this.many || this.isLast) tools.append(iconButton("refresh", answer.usage.error ? "Try again" : "Regenerate", () => actions.regenerate(answer), answer.usage.error ? { words: "Try again" } : {}))
    if (answer.text && !turn.hidden) tools.append(iconButton("resume", "Continue this answer", () => actions.continueFrom(answer)))
    if (answer.tokens?.length && !turn.hidden) {
      tools.append(iconButton("match_word", "Token probabilities", () => { this.showsTokens = !this.showsTokens; this.show(answer, this) }, { pressed: this.showsTokens }))
    }
    if (answer.text && !turn.hidden) {
      tools.append(
        iconButton("thumb_up", "Good answer", () => actions.rate(answer, answer.thumb === 1 ? 0 : 1), { pressed: answer.thumb === 1 }),
        iconButton("thumb_down", "Bad answer", () => actions.rate(answer, answer.thumb === -1 ? 0 : -1), { pressed: answer.thumb === -1 }),
      )
    }
    if (!this.many && turn.versions > 1) this.addVersions(tools)
    return tools
  }

  addVersions(tools) {
    const { turn, actions } = this
    const at = turn.version - 1
    const go = (step) => actions.select(turn.id, turn.rounds[at + step])
    const before = iconButton("chevron_left", "Earlier version", () => go(-1))
    const after = iconButton("chevron_right", "Later version", () => go(1))
    before.disabled = at === 0
    after.disabled = at === turn.versions - 1
    const box = element("span", "pg-versions")
    box.append(before, element("span", "", `${turn.version}/${turn.versions}`), after)
    tools.append(box)
  }

  drawTokens() {
    const view = new TokenView(this.answer.tokens, (token, instead) => { this.showsTokens = false; this.actions.continueFrom(this.answer, { token, instead }) })
    this.text.dataset.mode = "tokens"
    this.text.replaceChildren(view.root)
  }
}

// Figures on one line, which breaks between two of them alone.
function joined(figures) {
  const line = element("p", "pg-figures")
  figures.forEach((figure, at) => line.append(...(at ? [" · "] : []), element("span", "", figure)))
  return line
}

function waiting(isTogether) {
  const node = element("p", "pg-waiting", isTogether ? "Answers appear together, so that speed does not tell them apart" : "Waiting for the first token")
  return node
}

function reasoningOf(text) {
  const box = element("details", "pg-reasoning")
  box.append(element("summary", "", "Reasoning"), element("div", "bt-raw", text))
  return box
}
