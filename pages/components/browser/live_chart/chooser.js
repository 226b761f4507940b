// The menu that chooses which panels are shown, and in which order.

import { element } from "../dom.js"
import { movePanel, rearrange } from "./drawing.js"

export class PanelChooser {
  constructor(tools, chart) {
    this.chart = chart
    this.box = tools.appendChild(element("details", "rh-chooser"))
    this.box.appendChild(element("summary", "rh-button", "Panels"))
    this.menu = this.box.appendChild(element("div", "rh-menu"))
    this.onOutside = (event) => { if (this.box.open && !this.box.contains(event.target)) this.box.open = false }
    document.addEventListener("pointerdown", this.onOutside)
    this.box.addEventListener("keydown", (event) => { if (event.key === "Escape" && this.box.open) { this.box.open = false; this.box.firstChild.focus() } })
    this.box.addEventListener("toggle", () => this.fill())
  }

  destroy() {
    document.removeEventListener("pointerdown", this.onOutside)
  }

  // Draw the list again where it has changed, with the focus where it was: a click on a row that is drawn meanwhile is lost.
  fill() {
    if (!this.box.open) return
    const drawn = JSON.stringify([this.chart.known.map(({ id, title, hidden }) => [id, title, Boolean(hidden)]), this.chart.settings.panels.length > 0])
    if (drawn === this.drawn) return
    this.drawn = drawn
    const focused = /** @type {HTMLElement | null} */ (this.menu.contains(document.activeElement) ? document.activeElement : null)?.dataset.what
    this.menu.replaceChildren()
    this.chart.known.forEach((panel, place) => this.addPanel(panel, place))
    const reset = this.menu.appendChild(element("button", "rh-button", "Default panels"))
    reset.disabled = !this.chart.settings.panels.length
    reset.onclick = () => this.chart.set("panels", [])
    for (const node of /** @type {NodeListOf<HTMLElement>} */ (this.menu.querySelectorAll("[data-what]"))) if (node.dataset.what === focused) node.focus()
  }

  addPanel(panel, place) {
    const row = this.menu.appendChild(element("div", "rh-choice"))
    const label = row.appendChild(element("label", "rh-tool"))
    const box = label.appendChild(element("input"))
    Object.assign(box, { type: "checkbox", checked: !panel.hidden })
    box.dataset.what = `show ${panel.id}`
    box.onchange = () => rearrange(this.chart, (one) => (one.id === panel.id ? { ...one, hidden: !box.checked } : one))
    label.appendChild(document.createTextNode(panel.title))
    for (const [sign, words, to] of [["↑", "up", place - 1], ["↓", "down", place + 1]]) {
      const button = row.appendChild(element("button", "rh-button", sign))
      button.setAttribute("aria-label", `Move ${panel.title} ${words}`)
      button.dataset.what = `${words} ${panel.id}`
      button.disabled = to < 0 || to >= this.chart.known.length
      button.onclick = () => movePanel(this.chart, panel.id, to)
    }
  }
}
