// A table whose rows lead to their pages; those behind a fold follow below it. Texts are set as text nodes alone: they are anyone's.

import { element } from "../dom.js"
import { mount } from "../mounting.js"
import { opensHere } from "../links.js"

class LinkTable {
  constructor(root) {
    this.root = root
    this.table = root.appendChild(element("table"))
    this.fold = root.appendChild(element("details"))
    this.summary = this.fold.appendChild(element("summary"))
    this.folded = this.fold.appendChild(element("table"))
  }

  update(data, trigger) {
    this.trigger = trigger
    const shape = JSON.stringify(data)
    if (shape === this.shape) return
    this.shape = shape
    this.data = data
    this.fill(this.table, data.rows)
    const titles = this.table.createTHead().insertRow()
    for (const column of data.columns) titles.append(element("th", "", column.title))
    this.fold.hidden = !data.folded.length
    this.summary.textContent = data.fold
    this.fill(this.folded, data.folded)
  }

  fill(table, rows) {
    table.setAttribute("aria-label", this.data.label)
    const widths = element("colgroup")
    for (const column of this.data.columns) widths.appendChild(element("col")).style.width = column.width
    const body = element("tbody")
    for (const row of rows) this.fillRow(body.insertRow(), row)
    table.replaceChildren(widths, body)
  }

  fillRow(node, row) {
    row.cells.forEach((cell, place) => {
      const box = node.insertCell()
      box.dataset.title = this.data.columns[place].title
      if (cell.tone) box.dataset.tone = cell.tone
      if (cell.icon) box.appendChild(element("span", "lt-icon", cell.icon)).setAttribute("aria-hidden", "true")
      if (place === 0 && row.href) box.appendChild(this.link(row.href, cell.text))
      else box.append(element("span", "", cell.text))
    })
  }

  link(href, text) {
    const link = element("a", "", text)
    link.href = href
    link.onclick = (event) => { if (opensHere(event)) this.trigger("opened", href) }
    return link
  }

  destroy() {
    this.root.remove()
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".lt-host", node: "lt-table", view: LinkTable })
}
