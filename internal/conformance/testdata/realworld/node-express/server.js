const express = require('express')
const http = require('http')

const app = express()
app.get('/', (req, res) => res.json({ user: require('os').userInfo().username, env: process.env.NODE_ENV }))
const server = app.listen(0, '127.0.0.1', () => {
  http.get({ port: server.address().port, host: '127.0.0.1' }, (res) => {
    res.on('data', (b) => process.stdout.write(b + '\n')).on('end', () => process.exit(0))
  })
})
