// Requests to the ballot's server. A refusal is final for what was sent; a silence is not, and is worth another try.

const PATIENCE_MS = 15_000

export class Refusal extends Error {
  constructor(status, { error, remedy } = {}) {
    super(error || `The server refused (${status}).`)
    this.status = status
    this.remedy = remedy || ""
  }

  get isAccess() { return this.status === 401 || this.status === 403 }
}

export class Silence extends Error {}

// Ask with a token that the page renews; `renew` resolves to a new one, or null.
export class Door {
  constructor(base, renew) {
    this.base = base
    this.renew = renew
    this.token = ""
  }

  async ask(path, body) {
    try {
      return await this.once(path, body)
    } catch (error) {
      if (!(error instanceof Refusal && error.isAccess)) throw error
      const used = this.token
      const token = await this.renew(used)
      if (!token || token === used) throw error
      this.token = token
      return this.once(path, body)
    }
  }

  async once(path, body) {
    let response
    try {
      response = await fetch(`${this.base}/${path}`, {
        method: body === undefined ? "GET" : "POST",
        headers: { authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE_MS),
        cache: "no-store",
      })
    } catch {
      throw new Silence("The server does not answer.")
    }
    const answer = await response.json().catch(() => null)
    if (response.ok && answer) return answer
    if (response.status >= 500 || response.status === 429 || response.status === 408 || (response.ok && !answer)) throw new Silence(answer?.error || `The server answered ${response.status}.`)
    throw new Refusal(response.status, answer || {})
  }
}
