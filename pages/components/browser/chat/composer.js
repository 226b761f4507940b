// The field to write in: attached text files, the context meter above it, send and stop.

import { element } from "../dom.js"
import { blockOf, readFiles, roomLeft } from "./files.js"
import { iconButton } from "./icons.js"

const MAX_ROWS_PX = 260
const TOKENS_PER_MESSAGE = 4
const DEFAULT_RATIO = 3.5
const TAKEN = "roundhouse-draft-taken"
const SHARE_FOR_ANSWER = 0.25 // as the server leaves it

export class Composer {
  constructor({ send, stop, editLast }) {
    this.onSend = send
    this.onStop = stop
    this.onEditLast = editLast
    this.files = []
    this.limit = null
    this.limitOf = null // the endpoint with the shortest context, where they differ
    this.maxTokens = 0
    this.context = null
    this.isRunning = false
    this.root = element("form", "pg-composer")
    this.root.onsubmit = (event) => { event.preventDefault(); this.send() }
    this.meter = this.buildMeter()
    this.chips = element("div", "pg-chips")
    this.field = element("textarea", "pg-field")
    this.field.rows = 1
    this.field.placeholder = "Write a message"
    this.field.setAttribute("aria-label", "Message")
    this.field.oninput = () => { this.fit(); this.keep(); this.measure() }
    this.field.onkeydown = (event) => this.press(event)
    this.follow()
    this.input = element("input", "pg-unseen")
    this.input.type = "file"
    this.input.multiple = true
    this.input.tabIndex = -1
    this.input.setAttribute("aria-hidden", "true")
    this.input.onchange = () => this.attach([...this.input.files])
    const attach = iconButton("attach_file", "Attach text files", () => this.input.click())
    this.button = iconButton("arrow_upward", "Send", null)
    this.button.type = "submit"
    this.button.classList.add("pg-send")
    this.problem = element("p", "pg-problem")
    this.problem.setAttribute("role", "alert")
    const row = element("div", "pg-row")
    row.append(attach, this.field, this.button)
    const hint = element("p", "pg-hint", "Enter sends · Shift+Enter breaks the line · Esc stops · ↑ edits the last message · / goes to this field")
    this.root.append(this.meter, this.chips, row, this.problem, hint, this.input)
  }

  buildMeter() {
    const meter = element("div", "pg-meter")
    this.meterWords = meter.appendChild(element("span", "pg-meter-words"))
    const bar = meter.appendChild(element("div", "pg-meter-bar"))
    this.meterFill = bar.appendChild(element("div", "pg-meter-fill"))
    this.meterDraft = bar.appendChild(element("div", "pg-meter-draft"))
    bar.setAttribute("role", "meter")
    bar.setAttribute("aria-label", "Context in use")
    this.meterBar = bar
    return meter
  }

  // Say who gets the message, where there is a choice.
  address(settings) {
    const names = settings?.endpoints || []
    const count = new Set(names).size
    const sides = count > 1 ? ` to ${count} endpoints` : names.length > 1 ? ", answered twice" : ""
    this.field.placeholder = `Write a message${sides}${sides && settings.blind ? ", blind" : ""}`
  }

  offer(isOffered) {
    this.root.hidden = !isOffered
  }

  show({ isRunning, context }) {
    this.isRunning = isRunning
    this.context = context || null
    const name = isRunning ? "Stop" : "Send"
    this.button.querySelector(".pg-icon").textContent = isRunning ? "stop" : "arrow_upward"
    this.button.title = name
    this.button.setAttribute("aria-label", name)
    this.button.dataset.running = isRunning ? "yes" : "no"
    this.measure()
  }

  // What the next prompt takes of the context: exact up to the last answer that was counted, estimated for what comes after it.
  measure() {
    const used = this.context?.tokens || 0
    const text = this.text()
    const draft = text.trim() ? Math.ceil(text.length / (this.context?.ratio || DEFAULT_RATIO)) + TOKENS_PER_MESSAGE : 0
    const limit = this.limit || this.context?.limit
    this.meter.hidden = !limit
    if (!limit) return
    const total = used + draft
    const isFull = used > 0 && total > limit - Math.min(this.maxTokens, limit * SHARE_FOR_ANSWER)
    const share = (tokens) => `${Math.min(100, (100 * tokens) / limit).toFixed(1)}%`
    this.meterFill.style.width = share(used)
    this.meterDraft.style.width = share(Math.min(draft, Math.max(0, limit - used)))
    this.meter.dataset.full = isFull ? "yes" : "no"
    const isTooLong = draft >= limit
    const words = `Context${this.limitOf ? ` of ${this.limitOf}` : ""}: ${draft || (used && !this.context.exact) ? "about " : ""}${Math.min(total, limit).toLocaleString("en")} of ${limit.toLocaleString("en")} tokens`
    const more = isTooLong ? " · this message alone is longer than the context" : isFull ? ` · the oldest turns will not be sent${this.limitOf ? " there" : ""}` : ""
    this.meterWords.textContent = words + more
    this.meterBar.setAttribute("aria-valuemin", "0")
    this.meterBar.setAttribute("aria-valuemax", String(limit))
    this.meterBar.setAttribute("aria-valuenow", String(Math.min(total, limit)))
  }

  text() {
    return this.field.value + this.files.map(blockOf).join("")
  }

  async send(example) {
    if (this.isRunning) { this.onStop(); return }
    const text = example ?? this.text()
    if (!text.trim()) { this.field.focus(); return }
    this.problem.textContent = ""
    const draft = this.field.value, files = this.files
    if (example === undefined) { this.field.value = ""; this.files = []; this.drawChips(); this.fit() }
    const isSent = await this.onSend(text)
    if (!isSent && example === undefined) { this.field.value = draft; this.files = files; this.drawChips(); this.fit() }
    this.keep()
    this.measure()
    this.focus()
  }

  press(event) {
    if (event.isComposing) return
    if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey) { event.preventDefault(); if (!this.isRunning) this.send(); return }
    if (event.key === "ArrowUp" && !this.field.value && !this.isRunning) { event.preventDefault(); this.onEditLast() }
  }

  async attach(list) {
    const { files, problems } = await readFiles(list, { room: roomLeft(this.text()), count: this.files.length })
    this.files = [...this.files, ...files]
    this.problem.textContent = problems.join(" ")
    this.input.value = ""
    this.drawChips()
    this.measure()
    this.focus()
  }

  drawChips() {
    this.chips.replaceChildren(...this.files.map((file) => {
      const chip = element("span", "pg-chip")
      chip.append(element("bdi", "", file.name))
      chip.append(iconButton("close", `Remove ${file.name}`, () => { this.files = this.files.filter((other) => other !== file); this.drawChips(); this.measure() }))
      return chip
    }))
  }

  fit() {
    this.field.style.height = "auto"
    this.field.style.height = `${Math.min(MAX_ROWS_PX, this.field.scrollHeight)}px`
  }

  // Its lines break elsewhere at another width: a telephone that is turned, a page that is laid out after the first fit.
  follow() {
    let width = 0
    new ResizeObserver(() => {
      if (this.field.clientWidth === width) return
      width = this.field.clientWidth
      this.fit()
    }).observe(this.field)
  }

  // Write what a prompt of the team says into the field, once: runs of the page's script bring it again.
  take(draft) {
    if (!draft || draft.id === this.taken) return
    this.taken = draft.id
    try {
      if (sessionStorage.getItem(TAKEN) === draft.id) return
      sessionStorage.setItem(TAKEN, draft.id)
    } catch { /* storage is forbidden */ }
    this.field.value = draft.text
    this.fit()
    this.keep()
    this.measure()
    this.focus()
  }

  // A draft survives a reload, by conversation.
  keep() {
    try {
      if (this.field.value) sessionStorage.setItem(this.draftName, this.field.value)
      else sessionStorage.removeItem(this.draftName)
    } catch { /* storage is forbidden */ }
  }

  restore(conversation) {
    this.draftName = `roundhouse-draft-${conversation || "new"}`
    try { this.field.value = sessionStorage.getItem(this.draftName) || "" } catch { this.field.value = "" }
    this.fit()
    this.measure()
  }

  sent(conversation) {
    if (conversation === null) this.keep()
  }

  focus() {
    if (matchMedia("(hover: hover)").matches) this.field.focus({ preventScroll: true })
  }
}
