// Table of runs: sorted, chosen and folded by the page's script, live by polling. Texts are set with textContent alone.

import { element, fillName } from "../dom.js"
import { bytes } from "../live_chart/panels.js"
import { mount } from "../mounting.js"
import { LiveRows, drawSpark, fillState, runLink, sparkline, stateParts } from "../run_list/live.js"

const MAX_PICK_MS = 3000 // until the page's script has taken ticks over, or dropped those beyond its limit
const ENDED = ["finished", "cancelled"] // a badge says it all
const GROWING = ["steps", "tokens", "duration", "cost"]

const sameIds = (some, others) => some.length === others.length && some.every((id) => others.includes(id))

// As the table's Python writes newest values: only those of running runs are written here.
export function number(value, form) {
  const size = Math.abs(value)
  if (form === "loss") return size >= 1e-3 && size < 1e4 ? value.toFixed(4) : value.toPrecision(3)
  if (form === "percent") return `${(100 * value).toFixed(1)} %`
  if (form === "bytes") return bytes(value)
  if (form === "count") return short(value)
  if (form === "duration") return duration(Math.round(value))
  if (form === "usd") return value > 0 && value < 0.005 ? "under $0.01" : `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`
  if (form === "integer") return Math.round(value).toLocaleString("en")
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)))
}

function duration(seconds) {
  const whole = (unit) => Math.floor(seconds / unit)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 600) return `${whole(60)} min ${seconds % 60} s`
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`
  if (seconds < 86_400) return `${whole(3600)} h ${Math.floor((seconds % 3600) / 60)} min`
  return `${whole(86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`
}

function short(value) {
  if (Math.abs(value) < 9_999.5) return Math.round(value).toLocaleString("en")
  for (const unit of ["K", "M", "B"]) {
    value /= 1000
    if (Math.abs(value) < 999.5) return `${Number(value.toPrecision(3))} ${unit}`
  }
  return `${Number((value / 1000).toPrecision(3))} T`
}

class RunTable extends LiveRows {
  constructor(root) {
    super(root)
    this.rows = new Map()
    this.frame = root.appendChild(element("div", "rt-frame"))
    this.frame.tabIndex = 0
    this.frame.setAttribute("role", "region")
    const table = this.frame.appendChild(element("table", "rt-table"))
    this.head = table.appendChild(element("thead")).appendChild(element("tr"))
    this.body = table.appendChild(element("tbody"))
  }

  update(data, trigger) {
    this.follow(data, trigger)
    this.drawnAt = performance.now()
    this.frame.setAttribute("aria-label", data.label)
    if (this.picked && sameIds(this.picked, data.picked)) this.picked = null
    this.drawHead()
    this.rows.clear()
    this.ids = data.rows.flatMap((row) => (row.fold ? (row.open ? [] : row.ids) : [row.id]))
    this.body.replaceChildren(...data.rows.map((row) => (row.fold ? this.foldRow(row) : this.runRow(row))))
    for (const run of data.rows) if (!run.fold) this.fill(run.id, run)
    this.tick()
  }

  drawHead() {
    const all = element("th", "rt-tick")
    this.all = all.appendChild(element("input"))
    this.all.type = "checkbox"
    this.all.setAttribute("aria-label", "Tick all runs shown")
    this.all.onchange = () => this.pick(this.ids, this.all.checked)
    this.head.replaceChildren(all, ...this.data.columns.map((column, place) => this.headCell(column, place)))
  }

  headCell(column, place) {
    const cell = element("th", column.number ? "rt-number" : "")
    cell.scope = "col"
    if (place === 0) cell.classList.add("rt-name")
    const sorted = this.data.sort.name === column.name
    if (column.sortable) cell.setAttribute("aria-sort", sorted ? (this.data.sort.down ? "descending" : "ascending") : "none")
    const button = cell.appendChild(element(column.sortable ? "button" : "span", "rt-title", column.title))
    button.title = [column.about, column.sortable ? "Click to sort" : "", place ? "drag to move" : ""].filter(Boolean).join(" · ")
    if (column.sortable) {
      button.type = "button"
      button.onclick = () => this.trigger("sorted", column.name)
      if (sorted) button.appendChild(element("span", "rt-arrow", this.data.sort.down ? " ↓" : " ↑"))
    }
    if (place) this.makeMovable(cell, button, column.name)
    return cell
  }

  // Columns are moved with the mouse, or with Alt and an arrow key on their title.
  makeMovable(cell, button, name) {
    cell.draggable = true
    cell.ondragstart = (event) => { this.dragged = name; event.dataTransfer.effectAllowed = "move"; event.dataTransfer.setData("text/plain", name) }
    cell.ondragover = (event) => { if (this.dragged && this.dragged !== name) { event.preventDefault(); cell.classList.add("rt-target") } }
    cell.ondragleave = () => cell.classList.remove("rt-target")
    cell.ondragend = () => { this.dragged = null }
    cell.ondrop = (event) => {
      event.preventDefault()
      cell.classList.remove("rt-target")
      const names = this.movable()
      if (names.includes(this.dragged)) this.move(this.dragged, names.indexOf(name))
      this.dragged = null
    }
    button.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
      if (!event.altKey || !step) return
      event.preventDefault()
      this.move(name, this.movable().indexOf(name) + step)
    }
  }

  movable() {
    return this.data.columns.slice(1).map((column) => column.name)
  }

  move(name, place) {
    const names = this.movable().filter((one) => one !== name)
    if (place < 0 || place > names.length) return
    names.splice(place, 0, name)
    this.trigger("moved", names.join(","))
  }

  tickCell(label, ids) {
    const cell = element("td", "rt-tick")
    const box = cell.appendChild(element("input"))
    box.type = "checkbox"
    box.setAttribute("aria-label", label)
    box.onclick = (event) => this.pick(event.shiftKey && this.lastTicked && ids.length === 1 ? this.between(this.lastTicked, ids[0]) : ids, box.checked)
    return { cell, box }
  }

  between(one, other) {
    const places = [this.ids.indexOf(one), this.ids.indexOf(other)].sort((a, b) => a - b)
    return places[0] < 0 ? [other] : this.ids.slice(places[0], places[1] + 1)
  }

  foldRow(fold) {
    const node = element("tr", "rt-fold")
    const { cell, box } = this.tickCell(`Tick the runs of ${fold.title || "no value"}`, fold.ids)
    const name = element("th", "rt-name")
    name.scope = "row"
    const button = name.appendChild(element("button", "rt-toggle"))
    button.type = "button"
    button.setAttribute("aria-expanded", String(fold.open))
    button.onclick = () => this.trigger("toggled", fold.key)
    button.append(element("span", "rt-chevron", fold.open ? "▾" : "▸"), fillName(element("span", "rt-text"), fold.title || "no value"), element("span", "rt-count", `${fold.ids.length.toLocaleString("en")} run${fold.ids.length === 1 ? "" : "s"}`))
    if (fold.href) {
      const link = name.appendChild(element("a", "rt-open", "Open"))
      link.href = fold.href
      link.setAttribute("aria-label", `Open the sweep ${fold.title}`)
    }
    node.append(cell, name, ...fold.cells.map((text, place) => this.textCell(text, this.data.columns[place + 1])))
    this.rows.set(`fold:${fold.key}`, { box, ids: fold.ids })
    return node
  }

  runRow(run) {
    const node = element("tr", run.inside ? "rt-inside" : "")
    node.dataset.run = run.id
    const { cell, box } = this.tickCell(`Compare ${run.name}`, [run.id])
    const name = element("th", "rt-name")
    name.scope = "row"
    const link = name.appendChild(runLink(run.id, (id) => this.trigger("opened", id)))
    fillName(link, run.name).setAttribute("aria-label", run.name)
    const row = { box, ids: [run.id], live: [] }
    const cells = run.cells.map((text, place) => {
      const column = this.data.columns[place + 1]
      if (column.name === "status") {
        const state = element("td", "rt-state")
        row.state = stateParts(state)
        if (run.useless) row.state.badge.after(element("span", "rr-badge rr-useless", run.useless))
        return state
      }
      if (column.name === "curve") {
        const curve = element("td", "rt-curve")
        const { svg, path } = sparkline()
        row.path = path
        curve.appendChild(svg)
        return curve
      }
      const made = this.textCell(text, column)
      if (column.metric || GROWING.includes(column.name)) row.live.push([column, made])
      return made
    })
    node.append(cell, name, ...cells)
    this.rows.set(run.id, row)
    return node
  }

  textCell(text, column) {
    const cell = element("td", column?.number ? "rt-number" : "", text)
    if (text && text.length > 18) cell.title = text
    return cell
  }

  fill(id, state) {
    const row = this.rows.get(id)
    const run = this.data.rows.find((one) => one.id === id)
    if (!row || !run) return
    if (row.state) {
      fillState(row.state, state, this.word(run, state.status))
      row.state.line.style.display = ENDED.includes(state.status) ? "none" : ""
    }
    if (row.path) drawSpark(row.path, state.spark)
    if (!["running", "cancelling"].includes(state.status)) return
    for (const [column, cell] of row.live) {
      const value = column.metric ? this.newest(column.metric, run, state) : this.grown(column.name, run, state)
      if (value !== undefined) cell.textContent = number(value, column.form)
    }
  }

  newest([objective, metric], run, state) {
    return !objective || objective === run.objective ? state.last?.[metric] : undefined
  }

  // Seconds and costs grow with time, from what they were when the page's script drew them.
  grown(name, run, { step }) {
    const { tokens_per_step: perStep, seconds, usd } = run.growing
    if (name === "steps") return step
    if (name === "tokens") return step !== undefined && perStep !== null ? step * perStep : undefined
    if (seconds === null) return undefined
    const now = seconds + (performance.now() - this.drawnAt) / 1000
    if (name === "duration") return now
    return usd !== null && seconds > 0 ? usd * now / seconds : undefined
  }

  pick(ids, ticked) {
    this.lastTicked = ids.at(-1)
    const known = new Set(this.picked || this.data.picked)
    for (const id of ids) if (ticked) known.add(id); else known.delete(id)
    this.picked = [...known]
    this.tick()
    clearTimeout(this.pickTimer)
    this.pickTimer = setTimeout(() => { this.picked = null; this.tick() }, MAX_PICK_MS)
    this.trigger("picked", this.picked.join(","))
  }

  // Tick what was picked last: the page's script draws once more with the earlier ticks before it knows the new ones.
  tick() {
    const picked = new Set(this.picked || this.data.picked)
    for (const { box, ids } of this.rows.values()) {
      const ticked = ids.filter((id) => picked.has(id)).length
      box.checked = ids.length > 0 && ticked === ids.length
      box.indeterminate = ticked > 0 && ticked < ids.length
    }
    const shown = this.ids.filter((id) => picked.has(id)).length
    this.all.checked = this.ids.length > 0 && shown === this.ids.length
    this.all.indeterminate = shown > 0 && shown < this.ids.length
  }

  destroy() {
    clearTimeout(this.pickTimer)
    super.destroy()
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".rt-live", node: "rr-runs rt-runs", view: RunTable })
}
