// An answer as tokens, tinted by their probability. A token shows its alternatives, from each of which the answer can be continued.

import { element } from "../dom.js"

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob)
  return share >= 99.95 ? "100 %" : share >= 10 ? `${share.toFixed(1)} %` : `${share.toPrecision(2)} %`
}
const shown = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "→") || "∅"

export class TokenView {
  constructor(tokens, onContinue) {
    this.tokens = tokens
    this.onContinue = onContinue
    this.root = element("div", "pg-tokens")
    const legend = element("p", "pg-legend", "Darker is less likely. Choose a token for its alternatives.")
    this.strip = element("div", "pg-strip")
    this.panel = element("div", "pg-alternatives")
    this.panel.hidden = true
    tokens.forEach((token, index) => this.strip.append(this.chip(token, index)))
    this.root.append(legend, this.strip, this.panel)
  }

  chip({ text, logprob }, index) {
    const chip = element("button", "pg-token", shown(text))
    chip.type = "button"
    if (Number.isFinite(logprob)) {
      chip.style.setProperty("--pg-doubt", `${Math.round((1 - Math.exp(logprob)) * 75)}%`)
      chip.title = percent(logprob)
    } else chip.dataset.chosen = "yes"
    chip.onclick = () => this.open(index, chip)
    return chip
  }

  open(index, chip) {
    for (const other of this.strip.children) other.removeAttribute("aria-pressed")
    chip.setAttribute("aria-pressed", "true")
    const { text, logprob, top } = this.tokens[index]
    const rows = top?.length ? top : [[text, logprob]]
    this.panel.hidden = false
    this.panel.replaceChildren(...rows.map(([other, value]) => {
      const row = element("div", "pg-alternative")
      const bar = element("span", "pg-share")
      bar.style.setProperty("--pg-width", `${Math.round(100 * Math.exp(value ?? -99))}%`)
      row.append(element("code", "", shown(other)), bar, element("span", "pg-percent", Number.isFinite(value) ? percent(value) : ""))
      if (other === text) row.append(element("span", "pg-badge", "drawn"))
      else {
        const go = element("button", "pg-plain", "Continue from this one")
        go.type = "button"
        go.onclick = () => this.onContinue(index, other)
        row.append(go)
      }
      return row
    }))
  }
}
