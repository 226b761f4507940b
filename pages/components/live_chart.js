// Live curves of one or several runs over plotly.js: asks for points after the last step seen, keeps its nodes and the zoom.
// Text from runs is set with textContent alone. Joined with chart_*.js into one module.

const POLL_MS = 500
const HIDDEN_MS = 5000
const IDLE_MS = 10000
const MAX_POINTS = 4000 // more than this, and the whole curve is asked for again, downsampled
const DASHES = ["solid", "dash", "dashdot"]

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

function percentiles(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))]
  return [at(0.01), at(0.99)]
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
    this.settings = readSettings()
    this.head = root.appendChild(element("div", "rh-head"))
    this.tools = root.appendChild(element("div", "rh-tools"))
    this.note = root.appendChild(element("div", "rh-note"))
    this.grid = root.appendChild(element("div", "rh-grid"))
    this.samples = new SamplePanel(root, this)
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
    this.csv.href = `${data.csv}?${new URLSearchParams({ token: data.token })}`
    writeSettings(this.settings) // Streamlit writes the address too, and forgets what it did not set
    if (first) loadPlotly(data.plotly).then((plotly) => { this.Plotly = plotly; this.draw() }, () => this.say("The curves can't be drawn: plotly.js did not load. Reload the page."))
    if (first || before !== data.runs.map((run) => run.id).join()) { this.samples.refresh(true); this.poll() }
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
      warn: get("--st-orange-color", "#c77700"),
      colors: get("--st-chart-categorical-colors", "#B4471F,#2C6E8F,#5E8C31,#8A5AA8").split(",").map((color) => color.trim()),
    }
  }

  // ---- controls

  buildTools() {
    const across = this.tools.appendChild(element("label", "rh-tool", "Across"))
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
    check("logy", "Log y", "Loss, bits per byte and gradient norm on a logarithmic axis", forgetY)
    check("logx", "Log x", "A logarithmic axis across", () => { this.xRange = null })
    check("clip", "Without outliers", "Show the middle 98 % of the values (1st to 99th percentile)", forgetY)
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
    this.draw(true)
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
        if (points.whole || !series) { held.series.set(name, { steps: points.steps, values: points.values, times: points.times, clip: points.clip }); continue }
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
    if ([...dirty].some((name) => name === "all" || name.startsWith("val_"))) this.samples.refresh()
    else if ([...this.runs.values()].some((held) => held.state && held.state.active)) this.samples.refresh()
  }

  sayWaiting() {
    const points = [...this.runs.values()].some((held) => held.series.size)
    const active = [...this.runs.values()].some((held) => held.state && held.state.active)
    this.tools.style.display = points ? "flex" : "none"
    this.waiting = points ? "" : active ? "The curves begin with the first step." : "This run has no points."
    this.say(this.waiting)
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
    const wanted = panelsOf(names)
    for (const spec of wanted) {
      if (this.panels.has(spec.id)) continue
      const box = element("div", spec.wide ? "rh-panel rh-wide" : "rh-panel")
      box.dataset.panel = spec.id
      const title = box.appendChild(element("div", "rh-title"))
      title.appendChild(element("span", "", spec.unit && this.data.runs.every((run) => ["pretrain", "sft"].includes(run.objective)) ? `${spec.title}, ${spec.unit}` : spec.title))
      const legend = title.appendChild(element("span", "rh-legend"))
      const plot = box.appendChild(element("div", "rh-plot"))
      plot.style.height = spec.wide ? "320px" : "180px"
      plot.addEventListener("pointerdown", () => { this.dragging = true }, true)
      this.panels.set(spec.id, { spec, box, legend, plot, yRange: null })
    }
    const order = []
    const groups = new Set(wanted.map((spec) => spec.group || ""))
    let group = ""
    for (const spec of wanted) {
      if ((spec.group || "") !== group && groups.size > 1) order.push(this.heading(spec.group))
      group = spec.group || ""
      order.push(this.panels.get(spec.id).box)
    }
    order.forEach((node, index) => { if (this.grid.children[index] !== node) this.grid.insertBefore(node, this.grid.children[index] || null) })
  }

  heading(group) {
    this.headings ||= new Map()
    if (!this.headings.has(group)) this.headings.set(group, element("div", "rh-group", group))
    return this.headings.get(group)
  }

  draw(all = false, dirty = null) {
    if (!this.Plotly || this.dead) return
    if (this.dragging) { this.missed = true; return }
    if (this.missed) { all = true; this.missed = false }
    const started = performance.now()
    this.layPanels()
    this.chooseTimeUnit()
    for (const panel of this.panels.values()) {
      if (all || !dirty || panel.spec.metrics.some((name) => dirty.has(name))) this.drawPanel(panel)
    }
    this.drawMs = performance.now() - started
  }

  // One unit of time for all runs, so that they can lie over each other.
  chooseTimeUnit() {
    let longest = 0
    for (const held of this.runs.values()) for (const series of held.series.values()) longest = Math.max(longest, series.times[series.times.length - 1] || 0)
    this.time = longest < 300 ? [1, "seconds"] : longest < 3 * 3600 ? [60, "minutes"] : [3600, "hours"]
    const lacking = this.data.runs.filter((run) => !this.placesOf(run, { steps: [], times: [] }))
    const what = { time: "when its points were written", tokens: "how many tokens a step sees", flops: "how many operations a step takes" }
    this.say(lacking.length ? `Not shown: of ${lacking.map((run) => run.name).join(", ")} it is not known ${what[this.settings.x]}.` : this.waiting || "")
  }

  // Where points lie across; null if that is not known of a run.
  placesOf(run, series) {
    const { x } = this.settings
    if (x === "time") return run.has_time ? series.times.map((s) => s / this.time[0]) : null
    const factor = x === "tokens" ? run.tokens_per_step : x === "flops" ? run.flops_per_step : 1
    return factor ? (factor === 1 ? series.steps : series.steps.map((s) => s * factor)) : null
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
        const x = this.placesOf(run, series)
        if (!x) return
        const dash = DASHES[many ? Math.floor(runIndex / this.theme.colors.length) % DASHES.length : 0]
        traces.push(...this.tracesOf(series, { run, name, spec, color, many, x, dash }))
        if (!many) this.addLegend(panel, name, color, series)
      })
    })
    const layout = this.layoutOf(panel)
    if (!panel.drawn) {
      panel.drawn = true
      this.Plotly.newPlot(plot, traces, layout, { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false })
      plot.on("plotly_relayout", (event) => this.onZoom(panel, event))
      plot.on("plotly_click", (event) => this.samples.jump(event.points[0].customdata))
    } else this.Plotly.react(plot, traces, layout)
  }

  tracesOf(series, { run, name, spec, color, many, x, dash }) {
    const isVal = name.startsWith("val_")
    const label = many ? (spec.metrics.length > 1 ? `${run.name} · ${LABELS[name] || name}` : run.name) : LABELS[name] || name.replaceAll("_", " ")
    const value = `%{y${HOVER[spec.format] || `:${spec.format}`}}<extra>${escapeLabel(label)}</extra>`
    const smoothing = isVal || spec.exact ? 0 : this.settings.smoothing
    const base = { x, type: "scatter", connectgaps: true, customdata: series.steps }
    const line = { color, width: 1.8, dash: many && isVal ? "dot" : dash }
    if (!smoothing) {
      const marker = { color, size: 5 }
      return [{ ...base, y: series.values, mode: (isVal && series.values.length < 200) || series.values.length === 1 ? "lines+markers" : "lines", line, marker, hovertemplate: value }]
    }
    const reach = Math.max(1, (run.max_steps || series.steps[series.steps.length - 1]) / 300)
    return [
      { ...base, y: series.values, mode: "lines", line: { color, width: 1 }, opacity: 0.22, hoverinfo: "skip" },
      { ...base, y: smooth(series, smoothing, reach), mode: "lines", line, hovertemplate: value },
    ]
  }

  // The range of the middle 98 % of what a panel shows, with a twentieth of it around; undefined where nothing is cut off.
  middleOf(panel, log) {
    if (!this.settings.clip || panel.spec.exact) return undefined
    let [low, high] = [Infinity, -Infinity]
    for (const run of this.data.runs) {
      if (this.hidden.has(run.id)) continue
      for (const name of panel.spec.metrics) {
        const series = this.runs.get(run.id).series.get(name)
        if (!series || series.values.length < 20) continue
        const [from, to] = series.clip || percentiles(series.values)
        low = Math.min(low, from)
        high = Math.max(high, to)
      }
    }
    if (log) [low, high] = [Math.log10(low), Math.log10(high)]
    if (!(Number.isFinite(low) && Number.isFinite(high) && high > low)) return undefined
    const around = (high - low) / 20
    return [low - around, high + around]
  }

  // The step whose samples are shown, and what the diagnosis points at, as lines across the panels.
  shapes() {
    const run = this.data.runs[0]
    const marks = this.data.runs.length === 1 ? (this.data.marks || []).map((mark) => ({ step: mark.step, color: this.theme.warn, dash: "dash" })) : []
    if (this.marked !== undefined && this.samples.all.length > 1) marks.push({ step: this.marked, color: this.theme.text, dash: "dot" })
    return marks.flatMap(({ step, color, dash }) => {
      const x = this.placeOfStep(run, step)
      return x === null ? [] : [{ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: 1, dash }, opacity: 0.7 }]
    })
  }

  placeOfStep(run, step) {
    if (this.settings.x !== "time") return this.placesOf(run, { steps: [step], times: [] })?.[0] ?? null
    const series = this.runs.get(run.id).series.get("train_loss")
    if (!series || !run.has_time) return null
    const index = series.steps.findIndex((one) => one >= step)
    return index < 0 ? null : series.times[index] / this.time[0]
  }

  markStep(step) {
    if (this.marked === step) return
    this.marked = step
    this.draw(true)
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
    const log = this.settings.logy && panel.spec.log
    const axis = { gridcolor: line, linecolor: line, zeroline: false, color: text, tickfont: { size: 11 }, automargin: true }
    const titles = { step: "step", time: this.time[1], tokens: "tokens", flops: "floating-point operations" }
    const fixed = (range) => (range ? { range: [...range], autorange: false } : { autorange: true })
    const across = { type: this.settings.logx ? "log" : "linear", exponentformat: this.settings.x === "flops" ? "power" : "SI" }
    this.revision += 1
    return {
      height: panel.spec.wide ? 320 : 180,
      width: panel.plot.clientWidth || undefined,
      margin: { l: 48, r: 10, t: 8, b: panel.spec.wide ? 40 : 28 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: font, size: 12, color: text },
      showlegend: false, hovermode: "x unified", dragmode: "zoom", datarevision: this.revision,
      hoverlabel: { bgcolor: soft, bordercolor: line, font: { family: font, size: 12, color: text } },
      shapes: this.shapes(),
      xaxis: { ...axis, ...across, ...fixed(this.xRange), title: panel.spec.wide ? { text: titles[this.settings.x], font: { size: 11 }, standoff: 6 } : undefined, hoverformat: ",.6~g", spikecolor: line, spikethickness: 1, nticks: panel.spec.wide ? undefined : 5 },
      yaxis: { ...axis, ...TICKS[panel.spec.format], ...fixed(panel.yRange || this.middleOf(panel, log)), type: log ? "log" : "linear", nticks: panel.spec.wide ? undefined : 5, exponentformat: panel.spec.exponent || "SI" },
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
