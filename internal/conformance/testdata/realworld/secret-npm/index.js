const n = require('is-number'); console.log(n('42'), require('fs').existsSync('/root/.npmrc'))
