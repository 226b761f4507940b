// What the pages' scripts leave on the window for one another.
interface Window {
  Plotly?: any
  __roundhousePlotly?: Promise<any> | null
  __roundhousePrefetch?: boolean
}
