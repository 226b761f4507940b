// Rows of a dataset as bubbles: who says what, answers beside each other. Texts are set as text nodes alone: they are anyone's.

import { isTyping } from "../ballot/keys.js"
import { element } from "../dom.js"
import { opensHere } from "../links.js"
import { mount } from "../mounting.js"

const STEPS = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }
const OWN_KEYS = "[role=tablist], [role=radiogroup], [role=combobox], [role=listbox], [role=dialog], [role=slider], audio, video"

// Return where a text that was searched for stands in another, whatever its case, as [text, is the searched] in turn.
export function split(text, searched) {
  if (!searched) return [[text, false]]
  const pattern = new RegExp(`(${searched.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "giu")
  return text.split(pattern).map((part, place) => /** @type {[string, boolean]} */ ([part, place % 2 === 1])).filter(([part]) => part)
}

class DataRows {
  constructor(root) {
    this.root = root
    this.onKey = (event) => this.press(event)
    document.addEventListener("keydown", this.onKey)
  }

  update(data, trigger) {
    this.trigger = trigger
    const shape = JSON.stringify(data)
    if (shape === this.shape) return
    this.shape = shape
    this.data = data
    this.root.setAttribute("aria-label", data.label)
    this.root.setAttribute("role", "list")
    this.root.replaceChildren(...data.rows.map((row) => this.row(row)))
  }

  destroy() {
    document.removeEventListener("keydown", this.onKey)
    this.root.remove()
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || !this.data.keys || !this.root.checkVisibility() || isTyping(event)) return
    if (event.target instanceof Element && event.target.closest(OWN_KEYS)) return
    if (document.querySelector("dialog[open], [role=dialog]")) return
    const step = STEPS[event.key.length === 1 ? event.key.toLowerCase() : event.key] // caps lock
    if (event.key === "Escape") this.trigger("moved", "close")
    else if (step && !event.repeat) this.trigger("moved", step > 0 ? "next" : "previous")
    else return
    event.preventDefault()
  }

  row(row) {
    const node = element("article", "dr-row")
    node.setAttribute("role", "listitem")
    const head = node.appendChild(element("div", "dr-head"))
    if (row.href) {
      const link = head.appendChild(element("a", "dr-name", row.title))
      link.href = row.href
      if (!this.data.here) Object.assign(link, { target: "_blank", rel: "noopener" })
      else link.onclick = (event) => { if (opensHere(event)) this.trigger("opened", row.name) }
    } else head.appendChild(element("span", "dr-name", row.title))
    head.appendChild(element("span", "dr-facts", row.facts))
    if (row.tools.length) node.appendChild(element("div", "dr-tools", `Tools: ${row.tools.join(", ")}`))
    node.append(...row.turns.map((turn) => this.turn(turn)))
    if (row.sides.length) {
      const sides = node.appendChild(element("div", "dr-sides"))
      for (const side of row.sides) {
        const column = sides.appendChild(element("section", "dr-side"))
        column.dataset.side = side.name
        column.appendChild(element("div", "dr-mark", side.title))
        column.append(...side.turns.map((turn) => this.turn(turn)))
      }
    }
    return node
  }

  turn(turn) {
    const node = element("div", "dr-turn")
    node.dataset.role = turn.kind
    if (turn.role) node.appendChild(element("div", "dr-role", turn.role))
    const bubble = node.appendChild(element("div", "dr-bubble"))
    if (turn.right) bubble.dataset.right = "yes"
    if (turn.text) this.fill(bubble.appendChild(element("div", "dr-text")), turn.text)
    for (const call of turn.calls) this.fill(bubble.appendChild(element("code", "dr-call")), call)
    if (!turn.text && !turn.calls.length) bubble.appendChild(element("span", "dr-empty", "empty"))
    if (turn.more) bubble.appendChild(element("div", "dr-more", turn.more))
    return node
  }

  fill(node, text) {
    node.append(...split(text, this.data.searched).map(([part, isFound]) => (isFound ? element("mark", "", part) : document.createTextNode(part))))
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".dr-host", node: "dr-rows", view: DataRows })
}
