// Requests to the ballot's server. A refusal is final for what was sent; a silence is not, and is worth another try.

const PATIENCE_MS = 15_000

export class Refusal extends Error {
  /** @param {number} status @param {{error?: string, remedy?: string}} answer */
  constructor(status, { error, remedy } = {}) {
    super(error || `The server refused (${status}).`)
    this.status = status
    this.remedy = remedy || ""
  }

  get isAccess() { return this.status === 401 || this.status === 403 }
}

export class Silence extends Error {}

// Ask with a token that the page renews; `renew` resolves to a new one, or null.
export class Client {
  constructor(base, renew) {
    this.base = base
    this.renew = renew
    this.token = ""
  }

  ask(path, body) {
    return this.renewed(async () => answerOf(await this.send(path, body, AbortSignal.timeout(PATIENCE_MS))))
  }

  // Make a request, again with another token where this one is too old.
  async renewed(request) {
    try {
      return await request()
    } catch (error) {
      if (!(error instanceof Refusal && error.isAccess)) throw error
      const used = this.token
      const token = await this.renew(used)
      if (!token || token === used) throw error
      this.token = token
      return request()
    }
  }

  async send(path, body, signal, headers = {}) {
    try {
      return await fetch(`${this.base}/${path}`, {
        method: body === undefined ? "GET" : "POST",
        headers: { authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
      })
    } catch {
      throw new Silence("The server does not answer.")
    }
  }
}

// The JSON of a response, or its refusal.
export async function answerOf(response) {
  const answer = await response.json().catch(() => null)
  if (response.ok && answer) return answer
  if (response.status >= 500 || response.status === 429 || response.status === 408 || (response.ok && !answer)) throw new Silence(answer?.error || `The server answered ${response.status}.`)
  throw new Refusal(response.status, answer || {})
}
