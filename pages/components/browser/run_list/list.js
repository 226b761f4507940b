// List runs with live status, progress and sparkline. Names are set with textContent alone.

import { element, svgElement } from "../dom.js"
import { mount, rerunOnce } from "../mounting.js"

const POLL_MS = 1000
const IDLE_MS = 4000
const MAX_PICK_MS = 3000 // until the page's script has taken ticks over, or dropped those beyond its limit

function sparkline() {
  const svg = svgElement("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", class: "rr-spark", "aria-hidden": "true" })
  const path = svg.appendChild(svgElement("polyline", { fill: "none", "vector-effect": "non-scaling-stroke" }))
  return { svg, path }
}

function drawSpark(path, values) {
  if (!values || values.length < 2) { path.setAttribute("points", ""); return }
  const low = Math.min(...values)
  const high = Math.max(...values)
  const span = high - low || 1
  path.setAttribute("points", values.map((v, i) => `${((100 * i) / (values.length - 1)).toFixed(2)},${(24 - (22 * (v - low)) / span).toFixed(2)}`).join(" "))
}

const sameIds = (some, others) => some.length === others.length && some.every((id) => others.includes(id))

class LiveRuns {
  constructor(root) {
    this.root = root
    this.rerun = rerunOnce((change) => this.trigger("changed", change))
    this.rows = new Map()
    this.list = root.appendChild(element("div", "rr-list"))
    this.list.setAttribute("role", "list")
    this.onVisible = () => { if (!document.hidden) this.poll() }
    document.addEventListener("visibilitychange", this.onVisible)
  }

  update(data, trigger) {
    this.data = data
    this.trigger = trigger
    if (this.picked && sameIds(this.picked, data.picked)) this.picked = null
    this.root.classList.toggle("rr-compact", Boolean(data.compact))
    data.runs.forEach((run, index) => {
      let row = this.rows.get(run.id)
      if (!row) { row = this.makeRow(run); this.rows.set(run.id, row) }
      if (this.list.children[index] !== row.node) this.list.insertBefore(row.node, this.list.children[index] || null)
      row.name.textContent = run.name
      row.facts.textContent = run.facts
      row.tags.replaceChildren(...run.tags.map((tag) => element("span", "rr-tag", tag)))
      this.fill(run.id, run)
    })
    this.tick()
    for (const [id, row] of this.rows) if (!data.runs.some((run) => run.id === id)) { row.node.remove(); this.rows.delete(id) }
    if (data.prefetch && !window.__roundhousePrefetch) {
      window.__roundhousePrefetch = true
      const link = document.head.appendChild(element("link"))
      Object.assign(link, { rel: "prefetch", as: "script", href: data.prefetch })
    }
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.poll(), POLL_MS)
  }

  destroy() {
    this.dead = true
    clearTimeout(this.timer)
    clearTimeout(this.pickTimer)
    document.removeEventListener("visibilitychange", this.onVisible)
    this.root.remove()
  }

  makeRow(run) {
    const node = element("div", "rr-row")
    node.setAttribute("role", "listitem")
    node.dataset.run = run.id
    const row = { node }
    if (this.data.selectable) {
      row.box = node.appendChild(element("input"))
      row.box.type = "checkbox"
      row.box.setAttribute("aria-label", `Compare ${run.name}`)
      row.box.onchange = () => this.pick()
    }
    const title = node.appendChild(element("div", "rr-title"))
    row.name = title.appendChild(element("a", "rr-name"))
    row.name.href = `/run?run=${encodeURIComponent(run.id)}`
    row.name.onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
      event.preventDefault()
      this.trigger("opened", run.id)
    }
    const under = title.appendChild(element("div", "rr-under"))
    row.facts = under.appendChild(element("span"))
    row.tags = under.appendChild(element("span", "rr-tags"))
    const spark = sparkline()
    row.path = spark.path
    node.appendChild(spark.svg)
    row.value = node.appendChild(element("div", "rr-value"))
    const state = node.appendChild(element("div", "rr-state"))
    const top = state.appendChild(element("div", "rr-top"))
    row.badge = top.appendChild(element("span", "rr-badge"))
    row.line = top.appendChild(element("span", "rr-line"))
    const track = state.appendChild(element("div", "rr-track"))
    row.bar = track.appendChild(element("div", "rr-bar"))
    row.track = track
    return row
  }

  fill(id, state) {
    const row = this.rows.get(id)
    if (!row) return
    const { imported } = this.data.runs.find((one) => one.id === id) || {}
    row.badge.textContent = imported ? this.data.words.imported : this.data.words.status[state.status] || state.status
    row.badge.dataset.status = state.status
    row.line.textContent = state.line
    row.line.title = state.line
    row.bar.style.width = `${Math.round(1000 * (state.share || 0)) / 10}%`
    row.bar.dataset.status = state.status
    row.track.style.display = ["running", "cancelling"].includes(state.status) ? "block" : "none"
    drawSpark(row.path, state.spark)
    const metric = ["val_loss", "train_loss"].find((name) => state.last?.[name] !== undefined)
    row.value.replaceChildren(...(metric ? [element("span", "rr-metric", metric), ` ${state.last[metric].toFixed(3)}`] : []))
  }

  pick() {
    this.picked = this.data.runs.filter((run) => this.rows.get(run.id)?.box?.checked).map((run) => run.id)
    clearTimeout(this.pickTimer)
    this.pickTimer = setTimeout(() => { this.picked = null; this.tick() }, MAX_PICK_MS)
    this.trigger("picked", this.picked.join(","))
  }

  // Tick what was picked last: the page's script draws once more with the earlier ticks before it knows the new ones.
  tick() {
    const picked = new Set(this.picked || this.data.picked)
    for (const [id, row] of this.rows) if (row.box) row.box.checked = picked.has(id)
  }

  async poll() {
    clearTimeout(this.timer)
    if (this.dead || this.polling) return
    this.polling = true
    const asked = this.data
    let wait = IDLE_MS
    try {
      const response = await fetch(`${asked.url}?${new URLSearchParams({ token: asked.token })}`, { credentials: "same-origin", cache: "no-store" })
      if (response.status === 403 || response.redirected) this.rerun("expired")
      else if (response.ok) {
        const answer = await response.json()
        if (asked === this.data) this.take(answer)
        if (answer.active.length) wait = POLL_MS
      }
    } catch { /* the server is away: the rows stay as they are until it answers */ }
    this.polling = false
    if (!this.dead) this.timer = setTimeout(() => this.poll(), document.hidden ? 10 * POLL_MS : wait)
  }

  take(answer) {
    for (const run of this.data.runs) {
      const state = answer.runs[run.id]
      if (!state) continue
      this.fill(run.id, state)
      if (state.status !== run.status) this.rerun(`${run.id}:${state.status}`)
    }
    const active = answer.active.join()
    if (typeof this.data.active === "string" && active !== this.data.active) this.rerun(`active:${active}`)
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".rr-live", node: "rr-runs", view: LiveRuns })
}
