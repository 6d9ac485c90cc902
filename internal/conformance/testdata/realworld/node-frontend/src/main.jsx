import { render } from 'preact'

render(<h1>Hello, container</h1>, document.body)
