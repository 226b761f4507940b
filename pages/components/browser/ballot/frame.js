// What surrounds a battle: progress and tools above, choices and messages below, the list of keys over all.

import { element } from "../dom.js"
import { KEYS } from "./keys.js"

const TOOLS = [
  ["undo", "Undo", "U"], ["differences", "Differences", "D"], ["raw", "Raw text", "R"], ["note", "Note", "N"], ["rewrite", "Rewrite", ""], ["flag", "Flag", "F"], ["instructions", "Instructions", "I"], ["help", "Keys", "?"],
]
const PAIR = [
  ["A", "A is better", "A", "1"], ["B", "B is better", "B", "2"], ["TIE", "Equally good", "Tie", "3"], ["BOTH_BAD", "Both bad", "Both bad", "4"], ["SKIPPED", "Skip", "Skip", "S"],
]
const SKIP = PAIR[4]
const THUMBS = [[5, "Good", "Good", "1"], [1, "Bad", "Bad", "2"], SKIP]
const STARS = [1, 2, 3, 4, 5].map((value) => [value, `${"★".repeat(value)}${"☆".repeat(5 - value)}`, `${value} ★`, String(value)]).concat([SKIP])
const SPOKEN_STARS = { 1: "1 of 5 stars", 2: "2 of 5 stars", 3: "3 of 5 stars", 4: "4 of 5 stars", 5: "5 of 5 stars" }

// Return what a battle is answered with: a label of a pair, or the value of a single answer.
export function choicesOf(isSingle, rating) {
  return !isSingle ? PAIR : rating === "stars" ? STARS : THUMBS
}

export function button(className, words, key, onclick) {
  const node = element("button", className)
  node.type = "button"
  node.appendChild(element("span", "bt-words", words))
  if (key) {
    const hint = element("kbd", "bt-key") // its text is drawn by the style sheet: the button's name is its words
    hint.dataset.key = key
    hint.setAttribute("aria-hidden", "true")
    node.appendChild(hint)
    node.setAttribute("aria-keyshortcuts", key)
  }
  node.onclick = onclick
  return node
}

export class Head {
  constructor(onTool) {
    this.root = element("header", "bt-head")
    this.leave = element("a", "bt-leave", "Leave")
    this.bar = element("div", "bt-bar")
    this.done = this.bar.appendChild(element("div", "bt-done"))
    this.bar.setAttribute("role", "progressbar")
    this.bar.setAttribute("aria-label", "Progress")
    this.words = element("span", "bt-progress")
    this.saving = element("span", "bt-saving")
    this.saving.setAttribute("role", "status")
    const place = element("div", "bt-place")
    place.append(this.words, this.bar)
    const tools = element("div", "bt-tools")
    tools.setAttribute("role", "toolbar")
    tools.setAttribute("aria-label", "Ballot tools")
    this.tools = Object.fromEntries(TOOLS.map(([name, words, key]) => [name, tools.appendChild(button("bt-quiet", words, key, () => onTool(name)))]))
    for (const [name, node] of Object.entries(this.tools)) node.dataset.name = name
    this.root.append(this.leave, place, this.saving, tools)
  }

  setUp({ form, leave }) {
    this.leave.hidden = !leave
    if (leave) this.leave.href = leave
    this.tools.note.hidden = !form.note
    this.tools.instructions.hidden = !form.instructions
    const isSingle = form.rating !== "none" // a grade takes a note alone
    this.tools.rewrite.hidden = !form.rewrite || isSingle
    this.tools.flag.hidden = this.tools.differences.hidden = isSingle
  }

  showProgress({ done, skipped, total, median_s: median }, unsaved, isStuck) {
    const pace = median === null || median === undefined ? "" : ` · ${Math.round(median)} s per vote`
    const skips = skipped ? ` · ${skipped} skipped` : ""
    this.words.textContent = total ? `${done} of ${total}${skips}${pace}` : ""
    this.bar.setAttribute("aria-valuemax", String(total))
    this.bar.setAttribute("aria-valuenow", String(done))
    this.bar.setAttribute("aria-valuetext", `${done} of ${total} battles${skipped ? `, ${skipped} skipped` : ""}`)
    this.done.style.width = `${total ? Math.min(100, (100 * done) / total) : 0}%`
    const words = isStuck ? `${unsaved === 1 ? "1 vote" : `${unsaved} votes`} not saved yet` : ""
    if (this.saving.textContent !== words) this.saving.textContent = words
  }

  press(name, isOn) {
    this.tools[name].setAttribute("aria-pressed", String(isOn))
  }

  // Mark a tool whose part of the vote is filled in.
  fill(name, isFilled) {
    this.tools[name].dataset.filled = isFilled ? "yes" : "no"
  }
}

export class Foot {
  constructor(onChoose) {
    this.onChoose = onChoose
    this.root = element("footer", "bt-foot")
    this.notices = element("div", "bt-notices")
    this.notices.setAttribute("role", "status")
    this.reasons = element("div", "bt-reasons")
    this.choices = element("div", "bt-choices")
    this.choices.setAttribute("role", "group")
    this.choices.setAttribute("aria-label", "Your vote")
    this.root.append(this.notices, this.reasons, this.choices)
    this.kind = null
  }

  show(choices) {
    if (this.kind === choices) return
    this.kind = choices
    this.choices.dataset.count = String(choices.length)
    this.choices.replaceChildren(...choices.map(([value, words, short, key]) => {
      const node = button(value === "SKIPPED" ? "bt-choice bt-skip" : "bt-choice", words, key, () => this.onChoose(value))
      node.querySelector(".bt-words").dataset.short = short
      node.setAttribute("aria-label", choices === STARS && SPOKEN_STARS[value] ? SPOKEN_STARS[value] : words)
      node.onkeydown = (event) => { if (event.key === "Enter") event.preventDefault() } // Enter never votes; the space bar presses a button
      return node
    }))
  }

  // Return the value behind a key, or undefined.
  valueOf(key) {
    return this.kind?.find(([, , , shortcut]) => shortcut.toLowerCase() === key)?.[0]
  }

  notify(kind, text) {
    const old = this.notices.querySelector(`[data-kind="${kind}"]`)
    if (old && old.firstChild.textContent === text) return
    old?.remove()
    const line = element("div", "bt-notice")
    line.dataset.kind = kind
    line.appendChild(element("span", "", text))
    line.appendChild(button("bt-quiet bt-close", "Close", "", () => line.remove()))
    this.notices.appendChild(line)
  }

  quiet(kind) {
    this.notices.querySelector(`[data-kind="${kind}"]`)?.remove()
  }

  // Chips under the choices, for the vote that was just cast.
  offerReasons(reasons, label, onPick) {
    const spoken = PAIR.find(([value]) => value === label)?.[1]
    this.reasons.dataset.kept = reasons.length ? "yes" : "no" // the row keeps its height, so that nothing moves at a vote
    if (!spoken || label === "SKIPPED") { this.reasons.replaceChildren(element("span", "bt-why bt-idle", "After a vote you can add why.")); return }
    const picked = new Set()
    const chips = reasons.map((reason) => {
      const chip = button("bt-chip", reason, "", () => {
        if (!picked.delete(reason)) picked.add(reason)
        chip.setAttribute("aria-pressed", String(picked.has(reason)))
        onPick([...picked])
      })
      chip.setAttribute("aria-pressed", "false")
      return chip
    })
    const words = element("span", "bt-why", `Last vote: ${spoken}. Why?`)
    this.reasons.setAttribute("role", "group")
    this.reasons.setAttribute("aria-label", `Reasons for the last vote, ${spoken}`)
    this.reasons.replaceChildren(words, ...chips)
  }
}

export class Help {
  constructor() {
    this.root = element("dialog", "bt-help")
    this.root.setAttribute("aria-label", "Keys of the ballot")
    const list = element("dl", "bt-keys")
    for (const [key, words] of KEYS) list.append(element("dt", "", key), element("dd", "", words))
    const label = element("label", "bt-switch")
    this.letters = element("input")
    this.letters.type = "checkbox"
    this.letters.checked = true
    label.append(this.letters, document.createTextNode("Vote by single keys"))
    this.root.append(element("h2", "", "Keys"), list, element("p", "bt-hint", "Enter never votes. A key does nothing while you type."), label, button("bt-choice", "Close", "", () => this.root.close()))
  }

  get isOpen() { return this.root.open }
  get keysVote() { return this.letters.checked }

  open() {
    if (!this.root.open) this.root.showModal()
  }
}

// What the campaign's lead asks of its raters.
export class Instructions {
  constructor() {
    this.root = element("dialog", "bt-help")
    this.root.setAttribute("aria-label", "Instructions")
    this.text = element("p", "bt-asked")
    this.root.append(element("h2", "", "Instructions"), this.text, button("bt-choice", "Close", "", () => this.root.close()))
  }

  get isOpen() { return this.root.open }

  open(text) {
    this.text.textContent = text
    if (!this.root.open) this.root.showModal()
  }
}
