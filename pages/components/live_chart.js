// Live curves of one or several runs over plotly.js: asks for points after the last step seen, keeps its nodes and the zoom.
// Text from runs is set with textContent alone. Knows nothing of training; what a metric means is in PANELS.

const POLL_MS = 500
const HIDDEN_MS = 5000
const IDLE_MS = 10000
const MAX_POINTS = 4000 // more than this, and the whole curve is asked for again, downsampled
const SETTINGS = "roundhouse.curves"

const PANELS = [
  { id: "loss", title: "Loss", unit: "nats per token", metrics: ["train_loss", "val_loss"], wide: true, log: true, format: ".4f" },
  { id: "val_bpb", title: "Validation bits per byte", metrics: ["val_bpb"], format: ".4f" },
  { id: "learning_rate", title: "Learning rate", metrics: ["learning_rate"], exact: true, format: ".3e", exponent: "e" },
  { id: "grad_norm", title: "Gradient norm", metrics: ["grad_norm"], log: true, format: ".3f" },
  { id: "margins", title: "Reward margin", metrics: ["rewards/margins", "val_rewards/margins"], format: ".3f" },
  { id: "accuracies", title: "Preference accuracy", metrics: ["rewards/accuracies", "val_rewards/accuracies"], format: ".3f" },
  { id: "rewards", title: "Rewards", metrics: ["rewards/chosen", "rewards/rejected"], format: ".3f" },
  { id: "tok_per_sec", title: "Tokens per second", metrics: ["tok_per_sec"], format: ",.0f" },
]
const LABELS = {
  train_loss: "train", val_loss: "validation", "rewards/chosen": "chosen", "rewards/rejected": "rejected",
  "rewards/margins": "train", "val_rewards/margins": "validation", "rewards/accuracies": "train", "val_rewards/accuracies": "validation",
  val_bpb: "validation", mfu: "Model FLOPs utilisation",
}
const STATUS = { queued: "Queued", running: "Running", cancelling: "Stopping", paused: "Paused", cancelled: "Stopped", failed: "Failed", finished: "Finished" }

function loadPlotly(url) {
  if (!window.__roundhousePlotly) {
    window.__roundhousePlotly = new Promise((resolve, reject) => {
      const script = document.createElement("script")
      script.src = url
      script.onload = () => resolve(window.Plotly)
      script.onerror = () => { window.__roundhousePlotly = null; reject(new Error("plotly.js did not load")) }
      document.head.appendChild(script)
    })
  }
  return window.__roundhousePlotly
}

function element(tag, className, text) {
  const node = document.createElement(tag)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}

function readSettings() {
  try { return JSON.parse(localStorage.getItem(SETTINGS)) || {} } catch { return {} }
}

function number(value, format) {
  if (value === undefined || value === null || Number.isNaN(value)) return ""
  if (format === ",.0f") return Math.round(value).toLocaleString("en")
  if (format === ".3e") return value.toExponential(2)
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(format === ".3f" ? 3 : 4)
}

// Exponential average whose reach is a share of the run's length in steps, so that it does not depend on how many points are drawn.
function smooth(series, amount, reach) {
  const { steps, values } = series
  let cache = series.smoothed
  if (!cache || cache.amount !== amount) cache = series.smoothed = { amount, sum: 0, weight: 0, out: [] }
  for (let i = cache.out.length; i < values.length; i += 1) {
    const gap = i ? (steps[i] - steps[i - 1]) / reach : 1
    const decay = Math.pow(amount, Math.max(gap, 1e-3))
    cache.sum = decay * cache.sum + (1 - decay) * values[i]
    cache.weight = decay * cache.weight + (1 - decay)
    cache.out.push(cache.sum / cache.weight)
  }
  return cache.out
}

class LiveChart {
  constructor(root) {
    this.root = root
    this.runs = new Map()
    this.panels = new Map()
    this.hidden = new Set()
    this.xRange = null
    this.revision = 0
    this.drawMs = 0
    this.quietPolls = 0
    this.settings = { smoothing: 0.5, log: false, x: "step", ...readSettings() }
    this.head = root.appendChild(element("div", "rh-head"))
    this.tools = root.appendChild(element("div", "rh-tools"))
    this.note = root.appendChild(element("div", "rh-note"))
    this.grid = root.appendChild(element("div", "rh-grid"))
    this.buildTools()
    this.onVisible = () => { if (!document.hidden) this.poll() }
    document.addEventListener("visibilitychange", this.onVisible)
    this.onRelease = () => { if (this.dragging) { this.dragging = false; setTimeout(() => this.draw(), 60) } }
    window.addEventListener("pointerup", this.onRelease, true)
    this.resizes = new ResizeObserver(() => this.resize())
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
    if (first) loadPlotly(data.plotly).then((plotly) => { this.Plotly = plotly; this.draw() }, () => this.say("The curves can't be drawn: plotly.js did not load. Reload the page."))
    if (first || before !== data.runs.map((run) => run.id).join()) this.poll()
    else if (changed) this.draw(true)
    else this.poll()
  }

  destroy() {
    this.dead = true
    clearTimeout(this.timer)
    document.removeEventListener("visibilitychange", this.onVisible)
    window.removeEventListener("pointerup", this.onRelease, true)
    this.resizes.disconnect()
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
      colors: get("--st-chart-categorical-colors", "#B4471F,#2C6E8F,#5E8C31,#8A5AA8").split(",").map((color) => color.trim()),
    }
  }

  // ---- controls

  buildTools() {
    const choose = (label, options, name) => {
      const box = this.tools.appendChild(element("label", "rh-tool", label))
      const select = box.appendChild(element("select"))
      for (const [value, text] of options) {
        const option = select.appendChild(element("option", "", text))
        option.value = value
      }
      select.value = this.settings[name]
      select.onchange = () => { this.xRange = null; this.set(name, select.value) }
    }
    const smoothing = this.tools.appendChild(element("label", "rh-tool", "Smoothing"))
    const range = smoothing.appendChild(element("input"))
    Object.assign(range, { type: "range", min: 0, max: 0.98, step: 0.02, value: this.settings.smoothing })
    range.setAttribute("aria-label", "Smoothing")
    range.oninput = () => this.set("smoothing", Number(range.value))
    const log = this.tools.appendChild(element("label", "rh-tool"))
    const check = log.appendChild(element("input"))
    Object.assign(check, { type: "checkbox", checked: this.settings.log })
    log.appendChild(document.createTextNode("Log axis"))
    check.onchange = () => {
      for (const panel of this.panels.values()) panel.yRange = null
      this.set("log", check.checked)
    }
    choose("Across", [["step", "Steps"], ["time", "Time"], ["tokens", "Tokens"]], "x")
    this.tools.appendChild(element("span", "rh-hint", "Drag to zoom, double-click to reset"))
  }

  set(name, value) {
    this.settings[name] = value
    try { localStorage.setItem(SETTINGS, JSON.stringify(this.settings)) } catch { /* a browser that keeps nothing still draws */ }
    this.draw(true)
  }

  // ---- status lines

  buildHead() {
    const ids = this.data.runs.map((run) => run.id).join()
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
          this.draw(true)
        }
        row.appendChild(element("span", "rh-name", run.name))
      }
      const badge = row.appendChild(element("span", "rh-badge"))
      const track = row.appendChild(element("div", "rh-track"))
      track.setAttribute("role", "progressbar")
      track.setAttribute("aria-label", `Progress of ${run.name}`)
      const bar = track.appendChild(element("div", "rh-bar"))
      const line = row.appendChild(element("span", "rh-line"))
      const held = this.runs.get(run.id)
      held.head = { dot, badge, track, bar, line, index }
    })
    this.fillHead()
  }

  fillHead() {
    for (const run of this.data.runs) {
      const held = this.runs.get(run.id)
      const state = held.state || run
      const { dot, badge, track, bar, line, index } = held.head
      if (dot) dot.style.background = this.hidden.has(run.id) ? "transparent" : this.theme.colors[index % this.theme.colors.length]
      if (dot) dot.style.borderColor = this.theme.colors[index % this.theme.colors.length]
      badge.textContent = STATUS[state.status] || state.status
      badge.dataset.status = state.status
      const share = Math.round((state.share || 0) * 1000) / 10
      bar.style.width = `${share}%`
      bar.dataset.status = state.status
      track.setAttribute("aria-valuenow", String(share))
      if (line.textContent !== state.line) line.textContent = state.line || ""
    }
  }

  say(text) {
    this.note.textContent = text
    this.note.style.display = text ? "block" : "none"
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
    const asked = this.data
    let wait = POLL_MS
    try {
      const after = {}
      for (const [id, held] of this.runs) {
        if (held.resets === null) continue
        const metrics = {}
        for (const [name, series] of held.series) if (series.steps.length <= MAX_POINTS) metrics[name] = series.steps[series.steps.length - 1]
        after[id] = { resets: held.resets, metrics }
      }
      const query = new URLSearchParams({ token: asked.token, after: JSON.stringify(after) })
      const response = await fetch(`${asked.url}?${query}`, { credentials: "same-origin", cache: "no-store" })
      if (response.status === 403 || response.redirected) { this.ask("expired"); wait = IDLE_MS }
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
    if (this.lost) this.say("The server does not answer. Trying again.")
    if (asked !== this.data) wait = 50
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
        let series = held.series.get(name)
        if (points.whole || !series) { held.series.set(name, { steps: points.steps, values: points.values, times: points.times }); continue }
        const last = series.steps[series.steps.length - 1]
        for (let i = 0; i < points.steps.length; i += 1) {
          if (points.steps[i] <= last) continue
          series.steps.push(points.steps[i]); series.values.push(points.values[i]); series.times.push(points.times[i])
        }
      }
      if (run.status !== answer.state.status) this.ask(`${run.id}:${answer.state.status}`)
    }
    this.fillHead()
    this.sayWaiting()
    if (dirty.size) this.draw(dirty.has("all"), dirty)
  }

  sayWaiting() {
    const points = [...this.runs.values()].some((held) => held.series.size)
    const active = [...this.runs.values()].some((held) => held.state && held.state.active)
    this.tools.style.display = points ? "flex" : "none"
    this.say(points ? "" : active ? "The curves begin with the first step." : "This run has no points.")
  }

  // One script run per change, so that the page around shows what is new: buttons, samples, the cause of a failure.
  ask(what) {
    if (this.asked === what) return
    this.asked = what
    this.trigger("changed", what)
  }

  // ---- drawing

  layPanels() {
    const names = new Set()
    for (const held of this.runs.values()) for (const name of held.series.keys()) names.add(name)
    const known = new Set(PANELS.flatMap((panel) => panel.metrics))
    const wanted = PANELS.filter((panel) => panel.metrics.some((name) => names.has(name)))
    for (const name of [...names].sort()) {
      if (!known.has(name)) wanted.push({ id: name, title: LABELS[name] || name.replaceAll("_", " "), metrics: [name], format: ".4f" })
    }
    for (const spec of wanted) {
      if (this.panels.has(spec.id)) continue
      const box = element("div", spec.wide ? "rh-panel rh-wide" : "rh-panel")
      box.dataset.panel = spec.id
      const title = box.appendChild(element("div", "rh-title"))
      title.appendChild(element("span", "", spec.unit && this.data.runs.every((run) => run.objective !== "dpo") ? `${spec.title}, ${spec.unit}` : spec.title))
      const legend = title.appendChild(element("span", "rh-legend"))
      const plot = box.appendChild(element("div", "rh-plot"))
      plot.style.height = spec.wide ? "320px" : "180px"
      plot.addEventListener("pointerdown", () => { this.dragging = true }, true)
      this.panels.set(spec.id, { spec, box, legend, plot, yRange: null })
    }
    const order = [...this.panels.values()].sort((a, b) => rank(a.spec) - rank(b.spec))
    order.forEach((panel, index) => { if (this.grid.children[index] !== panel.box) this.grid.insertBefore(panel.box, this.grid.children[index] || null) })
  }

  draw(all = false, dirty = null) {
    if (!this.Plotly || this.dead) return
    if (this.dragging) { this.missed = true; return }
    if (this.missed) { all = true; this.missed = false }
    const started = performance.now()
    this.layPanels()
    for (const panel of this.panels.values()) {
      if (all || !dirty || panel.spec.metrics.some((name) => dirty.has(name))) this.drawPanel(panel)
    }
    this.drawMs = performance.now() - started
  }

  drawPanel(panel) {
    const { spec, plot } = panel
    const many = this.data.runs.length > 1
    const traces = []
    panel.legend.replaceChildren()
    this.data.runs.forEach((run, runIndex) => {
      const held = this.runs.get(run.id)
      spec.metrics.forEach((name, metricIndex) => {
        const series = held.series.get(name)
        if (!series || !series.steps.length || this.hidden.has(run.id)) return
        const color = this.theme.colors[(many ? runIndex : metricIndex) % this.theme.colors.length]
        traces.push(...this.tracesOf(series, { run, name, spec, color, many }))
        if (!many) this.addLegend(panel, name, color, series)
      })
    })
    const layout = this.layoutOf(panel)
    if (!panel.drawn) {
      panel.drawn = true
      this.Plotly.newPlot(plot, traces, layout, { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false })
      plot.on("plotly_relayout", (event) => this.onZoom(panel, event))
    } else this.Plotly.react(plot, traces, layout)
  }

  tracesOf(series, { run, name, spec, color, many }) {
    const isVal = name.startsWith("val_")
    const x = this.settings.x === "time" ? series.times.map((s) => s / 60) : this.settings.x === "tokens" ? series.steps.map((s) => s * run.tokens_per_step) : series.steps
    const label = many ? (spec.metrics.length > 1 ? `${run.name} · ${LABELS[name] || name}` : run.name) : LABELS[name] || name.replaceAll("_", " ")
    const value = `%{y:${spec.format}}<extra>${escapeLabel(label)}</extra>`
    const smoothing = isVal || spec.exact ? 0 : this.settings.smoothing
    const base = { x, type: "scatter", connectgaps: true }
    const line = { color, width: 1.8, dash: many && isVal ? "dot" : "solid" }
    if (!smoothing) {
      const marker = { color, size: 5 }
      return [{ ...base, y: series.values, mode: isVal && series.values.length < 200 ? "lines+markers" : "lines", line, marker, hovertemplate: value }]
    }
    const reach = Math.max(1, (run.max_steps || series.steps[series.steps.length - 1]) / 300)
    return [
      { ...base, y: series.values, mode: "lines", line: { color, width: 1 }, opacity: 0.22, hoverinfo: "skip" },
      { ...base, y: smooth(series, smoothing, reach), mode: "lines", line, hovertemplate: value },
    ]
  }

  addLegend(panel, name, color, series) {
    const item = panel.legend.appendChild(element("span", "rh-key"))
    if (panel.spec.metrics.length > 1) {
      const mark = item.appendChild(element("i"))
      mark.style.background = color
      item.appendChild(document.createTextNode(`${LABELS[name] || name} `))
    }
    item.appendChild(element("b", "", number(series.values[series.values.length - 1], panel.spec.format)))
  }

  layoutOf(panel) {
    const { text, line, soft, font } = this.theme
    const log = this.settings.log && panel.spec.log
    const axis = { gridcolor: line, linecolor: line, zeroline: false, color: text, tickfont: { size: 11 }, automargin: true }
    const titles = { step: "step", time: "minutes", tokens: "tokens" }
    const fixed = (range) => (range ? { range: [...range], autorange: false } : { autorange: true })
    this.revision += 1
    return {
      height: panel.spec.wide ? 320 : 180,
      width: panel.plot.clientWidth || undefined,
      margin: { l: 48, r: 10, t: 8, b: panel.spec.wide ? 40 : 28 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: font, size: 12, color: text },
      showlegend: false, hovermode: "x unified", dragmode: "zoom", datarevision: this.revision,
      hoverlabel: { bgcolor: soft, bordercolor: line, font: { family: font, size: 12, color: text } },
      xaxis: { ...axis, ...fixed(this.xRange), title: panel.spec.wide ? { text: titles[this.settings.x], font: { size: 11 }, standoff: 6 } : undefined, hoverformat: ",.6~g", spikecolor: line, spikethickness: 1, nticks: panel.spec.wide ? undefined : 5 },
      yaxis: { ...axis, ...fixed(panel.yRange), type: log ? "log" : "linear", nticks: panel.spec.wide ? undefined : 5, exponentformat: panel.spec.exponent || "SI" },
    }
  }

  onZoom(panel, event) {
    if (event["xaxis.autorange"]) this.xRange = null
    else if ("xaxis.range[0]" in event) this.xRange = [event["xaxis.range[0]"], event["xaxis.range[1]"]]
    else if (event["xaxis.range"]) this.xRange = [...event["xaxis.range"]]
    else if (!("yaxis.range[0]" in event) && !event["yaxis.autorange"]) return
    if (event["yaxis.autorange"]) panel.yRange = null
    else if ("yaxis.range[0]" in event) panel.yRange = [event["yaxis.range[0]"], event["yaxis.range[1]"]]
    this.dragging = false
    for (const other of this.panels.values()) if (other !== panel) this.drawPanel(other)
  }

  resize() {
    clearTimeout(this.resizing)
    this.resizing = setTimeout(() => this.draw(true), 80)
  }
}

function rank(spec) {
  const index = PANELS.findIndex((panel) => panel.id === spec.id)
  return index < 0 ? PANELS.length : index
}

// plotly.js reads a few HTML-like tags in labels: a run's name must stay text.
function escapeLabel(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "% {")
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const host = parentElement.querySelector(".rh-live")
  if (!host.chart) host.chart = new LiveChart(host.appendChild(element("div", "rh-chart")))
  host.chart.update(data, setTriggerValue)
  return () => {
    host.chart?.destroy()
    host.chart = null
  }
}
