// Requests to the playground's server, and the stream of answers that are on their way.

import { Door } from "../ballot/requests.js"

export class ChatDoor extends Door {
  constructor(url, token, renew) {
    super(url, renew)
    this.token = token
  }

  // Call `onEvent` for each change of an answer; resolves to whether the stream came to its end.
  async follow(conversation, signal, onEvent) {
    const response = await fetch(`${this.base}/stream?conversation=${encodeURIComponent(conversation)}`, {
      headers: { authorization: `Bearer ${this.token}` }, signal, cache: "no-store",
    })
    if (!response.ok) return false
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    let rest = ""
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return false
      const events = (rest + value).split("\n\n")
      rest = events.pop()
      for (const event of events) {
        if (event.startsWith("event: end")) { reader.cancel(); return true }
        if (event.startsWith("data: ")) onEvent(JSON.parse(event.slice(6)))
      }
    }
  }
}
