// Tokens as chips. Names and texts are set with textContent alone: they come from networks and datasets.

import { element } from "../dom.js"
import { mount } from "../mounting.js"

const PICTURES = { " ": "·", "\t": "→", "\n": "↵", "\r": "␍", "\u00a0": "⍽" }

// Invisible characters as pictures in a fainter colour; the rest as it is.
function fill(chip, text) {
  let plain = ""
  const flush = () => { if (plain) { chip.appendChild(document.createTextNode(plain)); plain = "" } }
  for (const letter of text) {
    const code = letter.codePointAt(0)
    const picture = PICTURES[letter] || (code < 32 ? String.fromCodePoint(0x2400 + code) : /[\p{Cf}\p{Zl}\p{Zp}]/u.test(letter) ? `⟨${code.toString(16)}⟩` : null)
    if (picture === null) { plain += letter; continue }
    flush()
    chip.appendChild(element("span", "rt-unseen", picture))
  }
  flush()
  if (!chip.firstChild) chip.appendChild(element("span", "rt-unseen", "∅"))
}

class TokenStrip {
  constructor(root) {
    this.root = root
    root.onclick = (event) => this.pick(event.target.closest(".rt-token"))
    root.onkeydown = (event) => this.move(event)
  }

  update(data, setState) {
    const shape = JSON.stringify([data.tokens, data.titles, data.marks, data.clickable, data.left_out])
    this.setState = setState
    this.clickable = data.clickable
    if (shape !== this.shape) this.build(data)
    this.shape = shape
    this.chips.forEach((chip, index) => this.tint(chip, data.values ? data.values[index] : null))
    if (data.selected !== this.given) { this.given = data.selected; this.select(data.selected) }
  }

  build(data) {
    this.given = undefined
    this.chips = data.tokens.map((text, index) => {
      const chip = element(data.clickable ? "button" : "span", "rt-token")
      fill(chip, text)
      chip.dataset.index = index
      chip.dataset.mark = data.marks ? data.marks[index] : ""
      if (data.titles) chip.title = data.titles[index]
      if (data.clickable) { chip.type = "button"; chip.tabIndex = index ? -1 : 0 }
      return chip
    })
    const parts = []
    this.chips.forEach((chip, index) => {
      parts.push(chip)
      if (data.tokens[index].includes("\n")) parts.push(element("br"))
    })
    if (data.left_out) parts.push(element("span", "rt-rest", ` … and ${data.left_out.toLocaleString("en")} more`))
    this.root.replaceChildren(...parts)
  }

  tint(chip, value) {
    if (value === null || value === undefined || !Number.isFinite(value)) { chip.style.removeProperty("--rt-share"); delete chip.dataset.side; return }
    chip.style.setProperty("--rt-share", `${(Math.min(1, Math.abs(value)) * 72).toFixed(1)}%`)
    chip.dataset.side = value < 0 ? "below" : "above"
  }

  select(index) {
    this.chips.forEach((chip, place) => {
      const on = place === index
      chip.toggleAttribute("data-selected", on)
      if (this.clickable) { chip.setAttribute("aria-pressed", on); if (index !== null && index !== undefined) chip.tabIndex = on ? 0 : -1 }
    })
  }

  pick(chip) {
    if (!chip || !this.clickable) return
    const index = Number(chip.dataset.index)
    this.select(index)
    chip.focus({ preventScroll: true })
    this.setState("picked", index)
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    const at = this.chips.indexOf(event.target)
    if (!step || at < 0) return
    event.preventDefault()
    this.pick(this.chips[Math.min(this.chips.length - 1, Math.max(0, at + step))])
  }

  destroy() {
    this.root.remove()
  }
}

export default function (component) {
  return mount(component, component.setStateValue, { host: ".rt-host", node: "rt-strip", view: TokenStrip })
}
