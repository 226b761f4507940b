// The panels as one picture, drawn as they lie on the screen. The points themselves come from the server as CSV.

function save(blob, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}

async function savePicture(chart) {
  const scale = 2
  const { grid, theme, Plotly } = chart
  const frame = grid.getBoundingClientRect()
  const names = chart.data.runs.filter((run) => !chart.hidden.has(run.id))
  const head = 22 * names.length + 14
  const canvas = document.createElement("canvas")
  canvas.width = Math.ceil(frame.width * scale)
  canvas.height = Math.ceil((frame.height + head) * scale)
  const pen = canvas.getContext("2d")
  pen.scale(scale, scale)
  pen.fillStyle = theme.back
  pen.fillRect(0, 0, frame.width, frame.height + head)
  const write = (text, x, y, font, color) => { pen.font = `${font} ${theme.font}`; pen.fillStyle = color; pen.fillText(text, x, y) }
  names.forEach((run, index) => {
    if (chart.data.runs.length > 1) { pen.fillStyle = chart.colorOf(run); pen.fillRect(4, 10 + 22 * index, 14, 4) }
    write(run.name, chart.data.runs.length > 1 ? 26 : 4, 17 + 22 * index, "600 14px", theme.text)
  })
  for (const panel of chart.panels.values()) {
    if (!panel.drawn) continue
    const box = panel.box.getBoundingClientRect()
    const x = box.left - frame.left
    const y = box.top - frame.top + head
    pen.strokeStyle = theme.line
    pen.strokeRect(x + 0.5, y + 0.5, box.width - 1, box.height - 1)
    write(panel.box.querySelector(".rh-title").firstChild.textContent, x + 10, y + 20, "600 13px", theme.text)
    let right = x + box.width - 10
    for (const item of [...panel.legend.children].reverse()) {
      pen.font = `13px ${theme.font}`
      right -= pen.measureText(item.textContent).width
      write(item.textContent, right, y + 20, "13px", theme.text)
      right -= 18
      const mark = item.querySelector("i")
      if (mark) { pen.fillStyle = mark.style.background; pen.fillRect(right, y + 15, 12, 3); right -= 12 }
    }
    const plot = panel.plot.getBoundingClientRect()
    const image = new Image()
    image.src = await Plotly.toImage(panel.plot, { format: "png", width: plot.width, height: plot.height, scale })
    await image.decode()
    pen.drawImage(image, plot.left - frame.left, plot.top - frame.top + head, plot.width, plot.height)
  }
  canvas.toBlob((blob) => save(blob, `${chart.fileName()}.png`))
}
