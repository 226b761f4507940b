// Making nodes. Text is set with textContent alone, so that a name or a network's text can't become markup.

const SVG = "http://www.w3.org/2000/svg"

export function element(tag, className, text) {
  const node = document.createElement(tag)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}

const TAIL = 12 // characters of a name that stay where it is cut
const LONGEST_TAIL = 22

// What tells a name from others like it: its last part, such as "· LR 1e-4" or "demo 2".
export function splitName(name) {
  const letters = [...name]
  const ends = [/ · [^·]*$/, /, [^,]*$/].map((end) => [...(end.exec(name)?.[0] ?? "")].length)
  const tail = ends.find((length) => length && length <= LONGEST_TAIL) ?? TAIL
  return letters.length > 2 * tail ? [letters.slice(0, -tail).join(""), letters.slice(-tail).join("")] : [name, ""]
}

// Write a name on one line, cut in its middle where there is no room: page.css lets only its first part shrink.
export function fillName(node, name, title = name) {
  const [head, tail] = splitName(name)
  node.classList.add("rr-cut")
  node.title = title
  node.replaceChildren(element("span", "rr-cut-head", head), element("span", "rr-cut-tail", tail))
  return node
}

export function svgElement(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  return node
}
