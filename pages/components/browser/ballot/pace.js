// How long a rater looks, when a break is due, and whether one side is chosen over and over.

const LONG_STREAK = 12
const PAUSE_MS = 5 * 60_000 // a pause this long is a break

export class Pace {
  constructor(foot) {
    this.foot = foot
    this.since = this.lastVote = Date.now()
    this.streak = { side: "", length: 0, isWarned: false }
    this.onTurn = () => this.turn()
    document.addEventListener("visibilitychange", this.onTurn)
  }

  setUp(form) {
    this.breakAfterMs = form.break_after_min * 60_000
  }

  // A battle is shown from now on; time in which the page is hidden does not count.
  begin() {
    this.spent = 0
    this.shownSince = document.hidden ? null : performance.now()
  }

  turn() {
    if (document.hidden) { this.spent = this.elapsed(); this.shownSince = null }
    else this.shownSince ??= performance.now()
  }

  elapsed() {
    return Math.round(this.spent + (this.shownSince === null ? 0 : performance.now() - this.shownSince))
  }

  voted(label) {
    const now = Date.now()
    if (now - this.lastVote > PAUSE_MS) this.since = now
    this.lastVote = now
    this.remindOfBreak(now)
    this.watchSides(label)
  }

  remindOfBreak(now) {
    if (!this.breakAfterMs || now - this.since < this.breakAfterMs) return
    const minutes = Math.round((now - this.since) / 60_000)
    this.foot.notify("break", `You have been judging for ${minutes === 1 ? "a minute" : `${minutes} minutes`}. A short break keeps your votes reliable.`)
    this.since = now
  }

  watchSides(label) {
    const { streak } = this
    if (label === "SKIPPED") return
    streak.length = label === streak.side ? streak.length + 1 : 1
    streak.side = label
    if (streak.length < LONG_STREAK || streak.isWarned || !["A", "B"].includes(label)) return
    streak.isWarned = true
    this.foot.notify("streak", `${label} was chosen ${LONG_STREAK} times in a row. Sides are shuffled, so please read both answers.`)
  }

  undone() {
    this.streak.length = Math.max(0, this.streak.length - 1)
  }

  destroy() {
    document.removeEventListener("visibilitychange", this.onTurn)
  }
}
