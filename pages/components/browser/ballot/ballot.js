// The ballot: shows a battle, takes a vote, and shows the prefetched next battle at once while the vote travels behind.

import { element } from "../dom.js"
import { mount } from "../mounting.js"
import { Drafts } from "./drafts.js"
import { Extras } from "./extras.js"
import { Foot, Head, Help, Instructions, choicesOf } from "./frame.js"
import { keyOf } from "./keys.js"
import { loadMaths } from "./nodes.js"
import { Outbox } from "./outbox.js"
import { Client, Refusal } from "./requests.js"
import { Messages } from "./messages.js"
import { Pace } from "./pace.js"
import { Sheet } from "./sheet.js"

const MIN_LOOK_MS = 300 // a vote this soon after a battle appears was meant for the one before
const MAX_UNDO = 10
const MAX_HELD = 4
const POLL_MS = 2000
const RENEWAL_MS = 8000
const SCROLLS = { down: 1, up: -1, "page down": 5, "page up": -5 }

class Ballot {
  constructor(root) {
    this.root = root
    this.battles = [] // the one shown, then those fetched ahead
    this.gone = new Set() // voted on here, so not to be shown again
    this.history = [] // the last votes, which undo shows at once
    this.head = new Head((name) => this.use(name))
    this.foot = new Foot((value) => this.choose(value))
    this.help = new Help()
    this.instructions = new Instructions()
    this.sheet = new Sheet({ onView: (view) => this.showView(view), onSide: (side) => { if (side !== this.turnedTo) this.foot.quiet("unseen") } })
    this.extras = new Extras({ onOpen: (name, isOpen) => this.head.press(name, isOpen), onFill: (name, isFilled) => this.head.fill(name, isFilled) })
    this.messages = new Messages()
    this.question = element("h1", "bt-question")
    this.live = element("div", "bt-unseen")
    this.live.setAttribute("role", "status")
    const main = element("main", "bt-main")
    main.tabIndex = -1
    main.append(this.question, ...this.sheet.nodes, this.extras.root, this.messages.root)
    root.append(this.head.root, main, this.foot.root, this.help.root, this.instructions.root, this.live)
    this.main = main
    this.listen()
  }

  listen() {
    this.onKey = (event) => this.press(event)
    this.onLeave = (event) => { if (this.outbox?.letters.length) event.preventDefault() }
    window.addEventListener("keydown", this.onKey, { capture: true }) // before Streamlit, whose own key R runs the page again
    window.addEventListener("beforeunload", this.onLeave)
  }

  update(data, trigger) {
    this.trigger = trigger
    if (this.client) {
      this.client.token = data.token
      this.renewed?.(data.token)
      return
    }
    this.leave = data.leave
    if (this.leave) { // what it covers is not part of it
      this.root.setAttribute("role", "dialog")
      this.root.setAttribute("aria-modal", "true")
      this.root.setAttribute("aria-label", "Ballot")
    }
    this.client = new Client(data.url, () => this.renew())
    this.client.token = data.token
    loadMaths(data.maths)
    this.pace = new Pace(this.foot)
    this.drafts = new Drafts(`${data.store}-drafts`)
    this.outbox = new Outbox(data.store, {
      send: ({ path, body, amends }) => this.client.ask(path, { ...body, ...(amends ? { amends } : {}), holds: this.held() }),
      onSaved: (letter, answer) => this.saved(letter, answer),
      onRefused: (letter, refusal) => this.refused(letter, refusal),
      onChange: () => this.showProgress(),
    })
    this.channel = new BroadcastChannel(data.store)
    this.channel.onmessage = ({ data: { id, isDone } }) => { if (isDone) this.forget(id); else this.gone.delete(id) }
    this.messages.show("busy", "Loading")
    this.start()
  }

  async start() {
    for (const letter of this.outbox.letters) if (letter.path === "vote") this.gone.add(letter.body.battle)
    await this.outbox.retry()
    await this.refill()
    this.main.focus({ preventScroll: true })
  }

  // Ask the page for a new token: resolves to it, or to null.
  renew() {
    return new Promise((resolve) => {
      this.renewed = resolve
      this.trigger("renew", Date.now())
      setTimeout(() => resolve(null), RENEWAL_MS)
    })
  }

  // Battles

  async refill() {
    this.refillAgain = this.isRefilling // what is on its way may not know of the newest vote
    if (this.isRefilling || this.isClosed) return
    this.isRefilling = true
    clearTimeout(this.timer)
    const result = await this.client.ask("next").catch((error) => error)
    this.isRefilling = false
    if (this.isClosed) return
    if (result instanceof Error) this.cannotRefill(result)
    else this.receive(result)
    if (this.refillAgain) await this.refill()
  }

  receive({ battles, progress, form }) {
    if (form && !this.form) {
      this.setUp(form)
      if (form.instructions && !progress.done && !progress.closed) this.instructions.open(form.instructions)
    }
    this.silences = 0
    this.progress = progress
    const isShown = this.battles.length && this.root.dataset.stage === "battle"
    this.add(battles)
    this.showProgress()
    if (progress.closed) { this.showEmpty(); return }
    if (!isShown) this.draw() // also a battle that came with the answer to an earlier visit's vote
  }

  add(battles) {
    for (const battle of battles) {
      if (battle && !this.gone.has(battle.id) && !this.battles.some((one) => one.id === battle.id)) this.battles.push(battle)
    }
  }

  cannotRefill(error) {
    if (error instanceof Refusal && error.status !== 409) { this.end(error); return }
    if (!this.battles.length) {
      if (error instanceof Refusal) this.messages.show("end", error.message, error.remedy)
      else this.messages.show("broken", "The server does not answer.", this.unsaved() ? `${this.unsavedWords()} kept in this browser, sent as soon as it answers.` : "The ballot continues by itself.", ["Try again", () => this.tryAgain()])
      this.showStage(false)
    }
    this.silences = (this.silences || 0) + 1
    this.timer = setTimeout(() => this.refill(), Math.min(10_000, 1000 * this.silences))
  }

  tryAgain() {
    this.outbox.retry()
    this.refill()
  }

  setUp(form) {
    this.form = { dimensions: [], reasons: [], note: false, rewrite: false, rating: "none", break_after_min: 0, ...form }
    this.question.textContent = this.form.question || "Which answer is better?"
    this.head.setUp({ form: this.form, leave: this.leave })
    this.extras.setUp(this.form, this.drafts)
    this.pace.setUp(this.form)
    this.foot.offerReasons(this.form.reasons, "")
  }

  draw(body) {
    this.foot.quiet("unseen")
    const battle = this.battles[0]
    if (!battle) { this.showEmpty(); return }
    this.messages.hide()
    this.showStage(true)
    this.sheet.show(battle)
    this.foot.show(choicesOf(this.sheet.isSingle, this.form.rating))
    this.extras.show(battle, this.sheet.isSingle, body)
    this.pace.begin()
    this.shownAt = performance.now()
    this.announce(battle)
  }

  announce(battle) {
    const { done, total } = this.shownProgress()
    const [, text] = battle.prompt[battle.prompt.length - 1] || ["", ""]
    this.live.textContent = `Battle ${Math.min(done + 1, total)} of ${total}. ${text.slice(0, 160)}`
  }

  showStage(isShown) {
    for (const node of [...this.sheet.nodes, this.extras.root, this.foot.choices]) node.classList.toggle("bt-away", !isShown)
    this.root.dataset.stage = isShown ? "battle" : "message"
  }

  showEmpty() {
    const { closed, more_to_come: more, is_queued: isQueued, done, skipped } = this.progress
    this.showStage(false)
    this.foot.offerReasons(this.form?.reasons || [], "")
    clearTimeout(this.timer)
    if (closed) { this.battles = []; this.messages.show("end", "This campaign is closed.", "It takes no more votes. Thank you for yours.") }
    else if (this.outbox.letters.length && this.outbox.isStuck) this.cannotRefill(new Error("silent"))
    else if (this.outbox.letters.length || this.isRefilling) this.messages.show("busy", "Saving your votes")
    else if (more) {
      const state = isQueued ? "The answers wait for other jobs of this installation to end." : "The answers are being generated."
      this.messages.show("busy", state, "The ballot continues by itself.")
      this.timer = setTimeout(() => this.refill(), POLL_MS)
    } else if (done) this.messages.show("end", `That was the last one: ${done - skipped === 1 ? "1 battle" : `${done - skipped} battles`} done${skipped ? `, ${skipped} skipped` : ""}. Thank you.`, "You can close this page. Undo takes back your last vote.")
    else this.messages.show("end", "Nothing to compare.", "The answers are missing or identical.")
    this.live.textContent = this.messages.words
  }

  // Votes

  choose(value) {
    const battle = this.battles[0]
    if (!battle || this.isUndoing || performance.now() - this.shownAt < MIN_LOOK_MS) return
    const unseen = value === "SKIPPED" ? null : this.sheet.unseen
    if (unseen) { this.turnTo(unseen); return }
    if (this.sheet.isSingle && value !== "SKIPPED") { this.advance(battle, "rate", { battle: battle.id, side: "A", value, ...this.onlyNote() }); return }
    this.advance(battle, "vote", { battle: battle.id, label: value, duration_ms: this.pace.elapsed(), ...this.extras.values() })
  }

  // A vote on an answer that was not seen is no comparison: show it first.
  turnTo(side) {
    this.turnedTo = side
    this.sheet.turnTo(side)
    this.shownAt = performance.now()
    this.foot.notify("unseen", `Here is answer ${side}. Read it too, then vote.`)
  }

  onlyNote() {
    const { note } = this.extras.values()
    return note ? { note } : {}
  }

  // Show the next battle, then send what was said about this one.
  advance(battle, path, body) {
    const vote = { battle, body, letter: null }
    this.history = [...this.history, vote].slice(-MAX_UNDO)
    this.gone.add(battle.id)
    this.battles.shift()
    vote.letter = this.outbox.add(path, body)
    this.drafts.keep(battle.id, {})
    this.pace.voted(body.label)
    this.draw()
    this.foot.offerReasons(this.form.reasons, body.label, (reasons) => this.amend(vote, reasons))
    if (this.battles.length < 1) this.refill()
  }

  // Add reasons to the vote that was just cast: the same vote again, with more in it.
  amend(vote, reasons) {
    vote.body = { ...vote.body, reasons }
    if (this.outbox.takeBack(vote.letter)) vote.letter = this.outbox.add("vote", vote.body)
    else vote.letter = this.outbox.add("vote", vote.body, { amends: true })
  }

  // What the server need not send again.
  held() {
    return [...new Set([...this.battles.map(({ id }) => id), ...this.outbox.letters.map(({ body }) => body.battle)])].slice(0, MAX_HELD)
  }

  saved(letter, answer) {
    if (answer.progress) this.progress = answer.progress
    this.channel.postMessage({ id: letter.body.battle, isDone: true })
    this.add([answer.next])
    this.showProgress()
    if (this.battles.length && this.root.dataset.stage === "message") this.draw()
    if (this.battles.length < 2 && !this.outbox.letters.length) this.refill()
  }

  refused(letter, refusal) {
    if (!letter) { this.end(refusal); return }
    this.foot.notify("refused", `A vote was not saved: ${refusal.message} ${refusal.remedy}`)
    this.gone.delete(letter.body.battle)
    this.history = this.history.filter((vote) => vote.letter !== letter)
    this.refill()
  }

  // Another tab of this browser has voted on a battle.
  forget(id) {
    const wasShown = this.battles[0]?.id === id
    this.gone.add(id)
    this.battles = this.battles.filter((battle) => battle.id !== id)
    if (!wasShown) return
    this.foot.notify("elsewhere", "You voted on that battle in another tab. This is the next one.")
    this.draw()
    this.refill()
  }

  async undo() {
    if (this.isUndoing) return
    const last = this.history[this.history.length - 1]
    if (last && this.outbox.takeBack(last.letter)) { this.history.pop(); this.restore(last.battle, last.body); return }
    this.isUndoing = true
    try {
      await this.outbox.flush()
      if (this.outbox.letters.length) { this.foot.notify("undo", `Undo needs the server. ${this.unsavedWords()} not saved yet.`); return }
      const { battle, progress } = await this.client.ask("undo", {})
      this.progress = progress
      this.history = this.history.filter((vote) => vote.battle.id !== battle.id)
      this.restore(battle, last?.battle.id === battle.id ? last.body : {})
    } catch (error) {
      this.foot.notify("undo", error instanceof Refusal ? `${error.message} ${error.remedy}` : "The server does not answer, so nothing was undone.")
      if (!(error instanceof Refusal)) this.refill()
    } finally {
      this.isUndoing = false
    }
  }

  restore(battle, body) {
    this.gone.delete(battle.id)
    this.channel.postMessage({ id: battle.id, isDone: false })
    this.battles = [battle, ...this.battles.filter((one) => one.id !== battle.id)]
    this.pace.undone()
    this.foot.quiet("undo")
    this.foot.offerReasons(this.form?.reasons || [], "")
    this.draw(body)
    this.showProgress()
  }

  end(refusal) {
    this.battles = []
    this.showStage(false)
    this.messages.show("broken", refusal.message, refusal.remedy, ["Try again", () => this.tryAgain()])
    this.live.textContent = this.messages.words
  }

  // Progress

  unsaved() {
    return new Set(this.outbox.letters.map((letter) => letter.body.battle)).size
  }

  unsavedWords() {
    return this.unsaved() === 1 ? "1 vote" : `${this.unsaved()} votes`
  }

  shownProgress() {
    const { done, skipped, total, median_s } = this.progress
    const waiting = new Map(this.outbox.letters.filter((letter) => !letter.amends).map(({ body }) => [body.battle, body.label]))
    const skips = [...waiting.values()].filter((label) => label === "SKIPPED").length
    return { done: Math.min(total, done + waiting.size), skipped: Math.min(total, skipped + skips), total, median_s }
  }

  showProgress() {
    if (!this.progress) return
    this.head.showProgress(this.shownProgress(), this.unsaved(), this.outbox.isStuck)
    this.head.tools.undo.disabled = !this.progress.can_undo && !this.history.length
  }

  // Keys and tools

  press(event) {
    if (this.help.isOpen || this.instructions.isOpen) return
    const key = keyOf(event)
    if (key === null) { this.wrap(event); return }
    if (key.length === 1) event.stopPropagation()
    if (key in SCROLLS) { if (!(event.target instanceof Element && event.target.closest(".bt-turns, .bt-wide"))) { event.preventDefault(); this.sheet.scroll(SCROLLS[key]) } return }
    if (key === "escape") { this.extras.close(); return }
    if (key === "?") { this.help.open(); return }
    if (!this.help.keysVote) { this.wrap(event); return }
    const value = this.battles.length ? this.foot.valueOf(key) : undefined
    const tool = { u: "undo", d: "differences", r: "raw", n: "note", f: "flag", p: "prompt", i: "instructions" }[key]
    if (value !== undefined) this.choose(value)
    else if (tool) { event.preventDefault(); this.use(tool) }
    else this.wrap(event)
  }

  // The ballot covers the page, so Tab stays in it.
  wrap(event) {
    if (event.key !== "Tab" || event.defaultPrevented) return
    const stops = [...this.root.querySelectorAll("a[href], button, textarea, [tabindex='0']")].filter((node) => !node.disabled && node.checkVisibility())
    const at = stops.indexOf(document.activeElement)
    const leaves = event.shiftKey ? at <= 0 : at === stops.length - 1
    if (!stops.length || (!leaves && this.root.contains(document.activeElement))) return
    event.preventDefault()
    stops[event.shiftKey ? stops.length - 1 : 0].focus()
  }

  use(name) {
    if (name === "undo") { this.undo(); return }
    if (name === "help") { this.help.open(); return }
    if (name === "instructions") { if (this.form?.instructions) this.instructions.open(this.form.instructions); return }
    if (!this.battles.length) return
    if (this.head.tools[name]?.hidden) return
    if (name === "prompt") this.sheet.unfold(!this.sheet.isUnfolded)
    else if (name === "differences" || name === "raw") this.sheet.toggle(name)
    else this.extras.toggle(name)
  }

  showView(view) {
    this.head.press("raw", view === "raw")
    this.head.press("differences", view === "differences")
    if (this.sheet.tooLong) this.foot.notify("differences", "These answers are too long for a comparison word by word.")
    else this.foot.quiet("differences")
  }

  destroy() {
    this.isClosed = true
    clearTimeout(this.timer)
    window.removeEventListener("keydown", this.onKey, { capture: true })
    window.removeEventListener("beforeunload", this.onLeave)
    this.outbox?.destroy()
    this.pace?.destroy()
    this.channel?.close()
    this.root.remove()
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".bt-host", node: "bt", view: Ballot })
}
