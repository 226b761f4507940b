// Votes and ratings on their way: sent in order, one at a time, kept in the browser's storage until the server has them.
// Sending one twice is one vote (the server goes by battle), so what is unsure is sent again.

import { Refusal } from "./requests.js"

const PAUSES_MS = [500, 1000, 2000, 4000, 8000]

export class Outbox {
  // send(letter) resolves to the answer; onSaved(letter, answer), onRefused(letter, refusal), onChange().
  constructor(name, { send, onSaved, onRefused, onChange }) {
    this.name = name
    this.send = send
    this.onSaved = onSaved
    this.onRefused = onRefused
    this.onChange = onChange
    this.letters = this.stored()
    this.failures = 0
    this.inFlight = null
    this.online = () => this.retry()
    window.addEventListener("online", this.online)
  }

  get isStuck() { return this.failures > 0 && this.letters.length > 0 }

  stored() {
    try {
      const letters = JSON.parse(localStorage.getItem(this.name) || "[]")
      return Array.isArray(letters) ? letters.filter((letter) => letter && typeof letter.path === "string") : []
    } catch {
      return []
    }
  }

  // Another tab may keep letters of its own under the same name: only ours are added and taken away.
  store(change) {
    try {
      const letters = change(this.stored())
      if (letters.length) localStorage.setItem(this.name, JSON.stringify(letters))
      else localStorage.removeItem(this.name)
    } catch { /* storage is full or forbidden: the letters stay in this page */ }
  }

  add(path, body, facts = {}) {
    const letter = { id: `${Date.now()}-${Math.random().toString(36).slice(2)}`, path, body, ...facts }
    this.letters.push(letter)
    this.store((letters) => [...letters, letter])
    this.onChange()
    this.flush()
    return letter
  }

  // Take a letter back before it is sent; false if it may have reached the server.
  takeBack(letter) {
    if (letter === this.inFlight || letter.tried || !this.letters.includes(letter)) return false
    this.drop(letter)
    return true
  }

  drop(letter) {
    this.letters = this.letters.filter((one) => one !== letter)
    this.store((letters) => letters.filter((one) => one.id !== letter.id))
    this.onChange()
  }

  retry() {
    clearTimeout(this.timer)
    this.timer = null
    this.isBarred = false
    return this.flush()
  }

  // Send what is kept; resolves when all of it is sent, or the server is silent.
  flush() {
    if (this.flushing) return this.flushing
    if (this.timer || this.isBarred || this.isClosed || !this.letters.length) return Promise.resolve()
    this.flushing = this.sendAll().finally(() => { this.flushing = null; this.flush() })
    return this.flushing
  }

  async sendAll() {
    while (this.letters.length && !this.isClosed) {
      const letter = this.letters[0]
      this.inFlight = letter
      try {
        const answer = await this.send(letter)
        this.failures = 0
        this.inFlight = null
        this.drop(letter)
        this.onSaved(letter, answer)
      } catch (error) {
        this.inFlight = null
        if (error instanceof Refusal && !error.isAccess) {
          this.failures = 0
          this.drop(letter)
          this.onRefused(letter, error)
          continue
        }
        letter.tried = true
        this.wait(error)
        return
      }
    }
  }

  wait(error) {
    const pause = PAUSES_MS[Math.min(this.failures, PAUSES_MS.length - 1)]
    this.failures += 1
    this.onChange()
    if (error instanceof Refusal) { this.isBarred = true; this.onRefused(null, error); return }
    this.timer = setTimeout(() => this.retry(), pause)
  }

  destroy() {
    this.isClosed = true
    clearTimeout(this.timer)
    window.removeEventListener("online", this.online)
  }
}
