// What stands in place of a battle: loading, waiting, the end, a fault.

import { element } from "../dom.js"
import { button } from "./frame.js"

export class Messages {
  constructor() {
    this.root = element("div", "bt-message")
    this.title = element("p", "bt-headline")
    this.more = element("p", "bt-hint")
    this.actions = element("div", "bt-actions")
    this.root.append(this.title, this.more, this.actions)
    this.hide()
  }

  get words() { return `${this.title.textContent} ${this.more.textContent}` }

  // `kind`: busy (something is under way), end, broken.
  show(kind, title, more = "", action = null) {
    this.root.hidden = false
    this.root.dataset.kind = kind
    this.title.textContent = title
    this.more.textContent = more
    this.actions.replaceChildren(...(action ? [button("bt-choice", action[0], "", action[1])] : []))
  }

  hide() {
    this.root.hidden = true
    this.title.textContent = this.more.textContent = ""
  }
}
