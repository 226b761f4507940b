// Completions of the same prompts at each evaluation step, with a slider over the steps. Completions are set by textContent alone.

import { element } from "../dom.js"
import { markStep } from "./drawing.js"

const REFRESH_MS = 3000

export class SamplePanel {
  constructor(root, chart) {
    this.chart = chart
    this.steps = new Map() // by run: the steps at which it wrote samples, ascending
    this.texts = new Map() // by run and step
    this.follows = true
    this.refreshedAt = 0
    this.box = root.appendChild(element("div", "rh-samples"))
    this.box.style.display = "none"
    const head = this.box.appendChild(element("div", "rh-scrub"))
    head.appendChild(element("b", "", "The same prompts along the run"))
    this.slider = head.appendChild(element("input"))
    Object.assign(this.slider, { type: "range", min: 0, step: 1 })
    this.slider.setAttribute("aria-label", "Step of the samples")
    this.slider.oninput = () => { this.follows = Number(this.slider.value) === this.all.length - 1; this.show(this.all[Number(this.slider.value)]) }
    this.label = head.appendChild(element("span", "rh-line"))
    this.cards = this.box.appendChild(element("div", "rh-cards"))
    this.all = []
    this.shown = "" // the runs and their steps
  }

  // Load the steps of the samples: at first, after an evaluation step, and every few seconds while a run is active.
  async refresh(force = false) {
    const now = performance.now()
    if (!force && now - this.refreshedAt < REFRESH_MS) return
    this.refreshedAt = now
    for (const run of this.chart.data.runs) {
      const answer = await this.get(run.id)
      if (answer) this.steps.set(run.id, answer.steps)
    }
    const runs = new Set(this.chart.data.runs.map((run) => run.id))
    for (const id of this.steps.keys()) if (!runs.has(id)) this.steps.delete(id)
    const all = [...new Set([...this.steps.values()].flat())].sort((a, b) => a - b)
    const shown = JSON.stringify(this.chart.data.runs.map((run) => [run.id, run.label, this.steps.get(run.id)]))
    const changed = shown !== this.shown
    this.all = all
    this.shown = shown
    this.box.style.display = all.length ? "block" : "none"
    if (!all.length || !changed) return
    this.slider.max = all.length - 1
    this.slider.style.visibility = all.length > 1 ? "visible" : "hidden"
    this.show(this.follows || this.step === undefined ? all[all.length - 1] : this.step)
  }

  async get(run, step) {
    const query = new URLSearchParams({ token: this.chart.data.token, run, ...(step === undefined ? {} : { step }) })
    try {
      const response = await fetch(`${this.chart.data.samples}?${query}`, { credentials: "same-origin", cache: "no-store" })
      return response.ok ? await response.json() : null
    } catch { return null }
  }

  // Show the samples nearest to a step, such as a clicked point of a curve.
  jump(step) {
    if (!this.all.length) return
    const nearest = this.all.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best))
    this.follows = nearest === this.all[this.all.length - 1]
    this.show(nearest)
  }

  async show(step) {
    this.step = step
    this.slider.value = String(this.all.indexOf(step))
    this.label.textContent = `step ${step.toLocaleString("en")}${this.follows && this.all.length > 1 ? ", the newest" : ""}`
    this.slider.setAttribute("aria-valuetext", this.label.textContent)
    markStep(this.chart, step)
    const columns = []
    for (const run of this.chart.data.runs) {
      const at = (this.steps.get(run.id) || []).filter((one) => one <= step).pop()
      if (at === undefined) continue
      const key = `${run.id}:${at}`
      if (!this.texts.has(key)) {
        const answer = await this.get(run.id, at)
        if (!answer) continue
        if (this.texts.size > 400) this.texts.clear()
        this.texts.set(key, answer.samples)
      }
      columns.push({ run, at, samples: this.texts.get(key) })
    }
    if (this.step === step) this.draw(columns, step)
  }

  draw(columns, step) {
    const prompts = [...new Set(columns.flatMap((column) => column.samples.map((sample) => sample.prompt)))]
    this.cards.replaceChildren()
    for (const prompt of prompts) {
      const card = this.cards.appendChild(element("div", "rh-card"))
      card.appendChild(element("div", "rh-prompt", prompt))
      const row = card.appendChild(element("div", "rh-texts"))
      for (const { run, at, samples } of columns) {
        const match = samples.find((sample) => sample.prompt === prompt)
        if (!match) continue
        const cell = row.appendChild(element("div", "rh-text"))
        if (this.chart.data.runs.length > 1) {
          const name = cell.appendChild(element("div", "rh-whose", at === step ? run.label : `${run.label}, step ${at.toLocaleString("en")}`))
          name.style.borderColor = this.chart.colorOf(run)
        }
        cell.appendChild(element("div", "rh-said", match.completion || "(empty)"))
      }
    }
  }
}
