// Requests to the playground's server, and the events of answers that are on their way.

import { Client, Silence, answerOf } from "../ballot/requests.js"

const EVENTS = { accept: "text/event-stream" }

export class ChatClient extends Client {
  constructor(url, token, renew) {
    super(url, renew)
    this.token = token
  }

  // Send what begins answers. Resolves to the conversation with them, and their events as they come.
  begin(path, body, signal) {
    return this.renewed(async () => {
      const response = await this.send(path, body, signal, EVENTS)
      if (!response.ok) return answerOf(response) // throws the refusal
      const events = this.read(response)
      const { value } = await events.next()
      if (value?.kind !== "document") throw new Silence("The server broke off.")
      return { document: value.data, events }
    })
  }

  // The events of a conversation's answers that are on their way.
  async follow(conversation, signal) {
    const response = await this.send(`stream?conversation=${encodeURIComponent(conversation)}`, undefined, signal, EVENTS)
    if (!response.ok) throw new Silence(`The server answered ${response.status}.`)
    return this.read(response)
  }

  /**
   * Yield events until the one that says that all are done; returns whether it came.
   * @param {Response} response
   * @returns {AsyncGenerator<{kind: string, data: any}, any>}
   */
  async *read(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    let rest = ""
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return false
      const blocks = (rest + value).split("\n\n")
      rest = blocks.pop()
      for (const block of blocks) {
        const kind = /^event: (\w+)/.exec(block)?.[1] || "answer"
        const data = /^data: (.*)$/m.exec(block)?.[1]
        if (kind === "end") { reader.cancel(); return true }
        if (data) yield { kind, data: JSON.parse(data) }
      }
    }
  }
}
