// Live curves of one or several runs over plotly.js: polls for points after the last step, keeps its nodes and the zoom.
// Text from runs is set with textContent alone.

import { element, fillName } from "../dom.js"
import { mount, rerunOnce } from "../mounting.js"
import { draw, resize, say, tell } from "./drawing.js"
import { savePicture } from "./export.js"
import { SamplePanel } from "./samples.js"
import { ACROSS, readSettings, writeSettings } from "./settings.js"
import { PanelChooser } from "./chooser.js"

const POLL_MS = 500
const HIDDEN_MS = 5000
const IDLE_MS = 10000
const MAX_POINTS = 4000 // above this the whole curve is requested again, downsampled

function loadPlotly(url) {
  if (!window.__roundhousePlotly) {
    window.__roundhousePlotly = new Promise((resolve, reject) => {
      if (window.Plotly) { resolve(window.Plotly); return }
      /** @type {HTMLScriptElement | null} */
      const early = document.querySelector(`script[src="${url}"]`) // named in the page's head, and under way
      const script = early || document.createElement("script")
      script.addEventListener("load", () => resolve(window.Plotly))
      script.addEventListener("error", () => { window.__roundhousePlotly = null; reject(new Error("plotly.js did not load")) })
      if (!early) { script.src = url; document.head.appendChild(script) }
    })
  }
  return window.__roundhousePlotly
}

class LiveChart {
  constructor(root) {
    this.root = root
    this.rerun = rerunOnce((change) => this.trigger("changed", change))
    this.runs = new Map()
    this.panels = new Map()
    this.hidden = new Set()
    this.xRange = null
    this.revision = 0
    this.drawMs = 0
    this.quietPolls = 0
    this.settings = readSettings()
    this.head = root.appendChild(element("div", "rh-head"))
    this.tools = root.appendChild(element("div", "rh-tools"))
    this.note = root.appendChild(element("div", "rh-note"))
    this.grid = root.appendChild(element("div", "rh-grid"))
    this.samples = new SamplePanel(root, this)
    this.buildTools()
    this.onVisible = () => { if (!document.hidden) this.poll() }
    document.addEventListener("visibilitychange", this.onVisible)
    this.onRelease = () => { if (this.dragging) { this.dragging = false; setTimeout(() => draw(this), 60) } }
    window.addEventListener("pointerup", this.onRelease, true)
    this.resizes = new ResizeObserver(() => resize(this))
    this.resizes.observe(this.grid)
  }

  // ---- what Streamlit hands over at every script run

  update(data, trigger) {
    this.trigger = trigger
    const first = !this.data
    const before = this.data ? this.data.runs.map((run) => run.id).join() : ""
    this.data = data
    for (const run of data.runs) {
      if (!this.runs.has(run.id)) this.runs.set(run.id, { series: new Map(), resets: null, state: null })
    }
    for (const id of this.runs.keys()) if (!data.runs.some((run) => run.id === id)) this.runs.delete(id)
    const theme = this.readTheme()
    const changed = JSON.stringify(theme) !== JSON.stringify(this.theme)
    this.theme = theme
    this.buildHead()
    this.csv.href = `${data.csv}?${new URLSearchParams({ token: data.token })}`
    writeSettings(this.settings) // Streamlit writes the address too, and drops parameters it did not set
    if (first) loadPlotly(data.plotly).then((plotly) => { this.Plotly = plotly; draw(this) }, () => say(this, "The curves can't be drawn: plotly.js did not load. Reload the page."))
    if (first || before !== data.runs.map((run) => run.id).join()) { this.samples.refresh(true); this.poll() }
    else if (changed) draw(this, true)
    else this.poll()
  }

  destroy() {
    this.dead = true
    clearTimeout(this.timer)
    document.removeEventListener("visibilitychange", this.onVisible)
    window.removeEventListener("pointerup", this.onRelease, true)
    this.resizes.disconnect()
    this.chooser.destroy()
    if (this.Plotly) for (const panel of this.panels.values()) this.Plotly.purge(panel.plot)
    this.root.remove()
  }

  readTheme() {
    const style = getComputedStyle(this.root)
    const get = (name, fallback) => style.getPropertyValue(name).trim() || fallback
    return {
      text: get("--st-text-color", "#222"),
      line: get("--st-border-color", "#ddd"),
      back: get("--st-background-color", "#fff"),
      soft: get("--st-secondary-background-color", "#f4f4f4"),
      font: get("--st-font", "sans-serif"),
      warn: get("--st-orange-color", "#c77700"),
      colors: get("--st-chart-categorical-colors", "#B4471F,#2C6E8F,#5E8C31,#8A5AA8").split(",").map((color) => color.trim()),
    }
  }

  // ---- controls

  buildTools() {
    const across = this.tools.appendChild(element("label", "rh-tool", "X axis"))
    const select = across.appendChild(element("select"))
    for (const [value, text] of Object.entries(ACROSS)) select.appendChild(element("option", "", text)).value = value
    select.value = this.settings.x
    select.onchange = () => { this.xRange = null; this.set("x", select.value) }
    const smoothing = this.tools.appendChild(element("label", "rh-tool", "Smoothing"))
    const range = smoothing.appendChild(element("input"))
    Object.assign(range, { type: "range", min: 0, max: 0.98, step: 0.02, value: this.settings.smoothing })
    range.setAttribute("aria-label", "Smoothing")
    range.oninput = () => this.set("smoothing", Number(range.value))
    const check = (name, text, help, reset) => {
      const label = this.tools.appendChild(element("label", "rh-tool"))
      label.title = help
      const box = label.appendChild(element("input"))
      Object.assign(box, { type: "checkbox", checked: this.settings[name] })
      label.appendChild(document.createTextNode(text))
      box.onchange = () => { reset(); this.set(name, box.checked) }
    }
    const forgetY = () => { for (const panel of this.panels.values()) panel.yRange = null }
    check("logy", "Log y", "Logarithmic axis for loss, bits per byte and gradient norm", forgetY)
    check("logx", "Log x", "Logarithmic x axis", () => { this.xRange = null })
    check("clip", "Without outliers", "Show the middle 98 % of the values (1st to 99th percentile)", forgetY)
    this.chooser = new PanelChooser(this.tools, this)
    this.tools.appendChild(element("span", "rh-hint", "Drag to zoom, double-click to reset"))
    const exports = this.tools.appendChild(element("span", "rh-tool rh-exports"))
    const picture = exports.appendChild(element("button", "rh-button", "PNG"))
    picture.title = "Save the panels as a picture"
    picture.onclick = () => savePicture(this)
    this.csv = exports.appendChild(element("a", "rh-button", "CSV"))
    this.csv.title = "Save every point that is stored"
    this.csv.setAttribute("download", "")
  }

  set(name, value) {
    this.settings[name] = value
    writeSettings(this.settings)
    draw(this, true)
  }

  fileName() {
    const { runs } = this.data
    const name = runs.length === 1 ? runs[0].name : `${runs.length} runs`
    return name.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 80) || "curves"
  }

  colorOf(run) {
    return this.theme.colors[this.data.runs.indexOf(run) % this.theme.colors.length]
  }

  // ---- status lines

  buildHead() {
    const ids = JSON.stringify(this.data.runs.map((run) => [run.id, run.label]))
    if (this.headIds === ids) { this.fillHead(); return }
    this.headIds = ids
    this.head.replaceChildren()
    const many = this.data.runs.length > 1
    this.data.runs.forEach((run, index) => {
      const row = this.head.appendChild(element("div", many ? "rh-row rh-many" : "rh-row"))
      const dot = many ? row.appendChild(element("button", "rh-dot")) : null
      if (dot) {
        dot.title = `Show or hide ${run.name}`
        dot.setAttribute("aria-pressed", "true")
        dot.onclick = () => {
          if (this.hidden.has(run.id)) this.hidden.delete(run.id); else this.hidden.add(run.id)
          dot.setAttribute("aria-pressed", String(!this.hidden.has(run.id)))
          draw(this, true)
        }
        fillName(row.appendChild(element("span", "rh-name")), run.label, run.name)
      }
      const badge = row.appendChild(element("span", "rh-badge"))
      const track = row.appendChild(element("div", "rh-track"))
      track.setAttribute("role", "progressbar")
      track.setAttribute("aria-label", `Progress of ${run.name}`)
      const bar = track.appendChild(element("div", "rh-bar"))
      const line = row.appendChild(element("span", "rh-line"))
      const held = this.runs.get(run.id)
      held.head = { row, dot, badge, track, bar, line, index }
    })
    this.fillHead()
  }

  fillHead() {
    for (const run of this.data.runs) {
      const held = this.runs.get(run.id)
      const state = held.state || run
      const { row, dot, badge, track, bar, line, index } = held.head
      if (dot) dot.style.background = this.hidden.has(run.id) ? "transparent" : this.theme.colors[index % this.theme.colors.length]
      if (dot) dot.style.borderColor = this.theme.colors[index % this.theme.colors.length]
      badge.textContent = run.imported ? this.data.words.imported : this.data.words.status[state.status] || state.status
      badge.dataset.status = state.status
      row.dataset.status = state.status
      const share = Math.round((state.share || 0) * 1000) / 10
      bar.style.width = `${share}%`
      bar.dataset.status = state.status
      track.setAttribute("aria-valuenow", String(share))
      if (line.textContent !== state.line) line.textContent = state.line || ""
    }
  }

  // ---- points

  schedule(ms) {
    clearTimeout(this.timer)
    if (!this.dead) this.timer = setTimeout(() => this.poll(), ms)
  }

  async poll() {
    clearTimeout(this.timer)
    if (this.dead || this.polling) return
    this.polling = true
    const requested = this.data
    let wait = POLL_MS
    try {
      const after = {}
      for (const [id, held] of this.runs) {
        if (held.resets === null) continue
        const metrics = {}
        for (const [name, series] of held.series) if (series.steps.length <= MAX_POINTS) metrics[name] = series.steps[series.steps.length - 1]
        after[id] = { resets: held.resets, metrics }
      }
      const query = new URLSearchParams({ token: requested.token, after: JSON.stringify(after) })
      const response = await fetch(`${requested.url}?${query}`, { credentials: "same-origin", cache: "no-store" })
      if (response.status === 403 || response.redirected) { this.rerun("expired"); wait = IDLE_MS }
      else if (!response.ok) throw new Error(String(response.status))
      else {
        this.take((await response.json()).runs)
        this.lost = false
      }
    } catch {
      this.lost = true
      wait = 2000
    }
    this.polling = false
    if (this.dead) return
    if (this.lost) say(this, "The server does not answer. Trying again.")
    if (requested !== this.data) wait = 50
    else if (!this.lost && wait === POLL_MS) wait = this.isActive() ? Math.max(POLL_MS, 4 * this.drawMs) : this.quietPolls < 3 ? 1000 : IDLE_MS
    this.schedule(document.hidden ? Math.max(wait, HIDDEN_MS) : wait)
  }

  isActive() {
    const active = [...this.runs.values()].some((held) => held.state && held.state.active)
    this.quietPolls = active ? 0 : this.quietPolls + 1
    return active
  }

  take(answers) {
    const dirty = new Set()
    for (const run of this.data.runs) {
      const held = this.runs.get(run.id)
      const answer = answers[run.id]
      if (!held || !answer) continue
      held.state = answer.state
      if (held.resets !== answer.curves.resets) { held.series.clear(); held.resets = answer.curves.resets; dirty.add("all") }
      for (const [name, points] of Object.entries(answer.curves.metrics)) {
        dirty.add(name)
        const series = held.series.get(name)
        if (points.whole || !series) { held.series.set(name, { steps: points.steps, values: points.values, times: points.times, clip: points.clip }); continue }
        const last = series.steps[series.steps.length - 1]
        for (let i = 0; i < points.steps.length; i += 1) {
          if (points.steps[i] <= last) continue
          series.steps.push(points.steps[i]); series.values.push(points.values[i]); series.times.push(points.times[i])
        }
      }
      if (run.status !== answer.state.status) this.rerun(`${run.id}:${answer.state.status}`)
    }
    this.fillHead()
    this.sayWaiting()
    if (dirty.size) draw(this, dirty.has("all"), dirty)
    const active = [...this.runs.values()].some((held) => held.state && held.state.active)
    const ended = this.wasActive && !active // the last samples come with the end: load them once more
    this.wasActive = active
    if (ended || [...dirty].some((name) => name === "all" || name.startsWith("val_"))) this.samples.refresh(true)
    else if (active || this.quietPolls < 3) this.samples.refresh()
  }

  sayWaiting() {
    const points = [...this.runs.values()].some((held) => held.series.size)
    const active = [...this.runs.values()].some((held) => held.state && held.state.active)
    this.tools.style.display = points ? "flex" : "none"
    this.waiting = points ? "" : active ? "The curves begin with the first step." : "This run has no points."
    tell(this)
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".rh-live", node: "rh-chart", view: LiveChart })
}
