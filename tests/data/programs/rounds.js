// Node.js: each line of the input is stretched in the pool of threads and packed, while timers run.
const crypto = require('crypto'), readline = require('readline'), zlib = require('zlib');

(async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const stretch = (salt) => new Promise((done, failed) =>
      crypto.pbkdf2(line, salt, 2000, 32, 'sha256', (error, key) => error ? failed(error) : done(key)));
    const keys = await Promise.all(['a', 'b', 'c', 'd'].map(stretch));
    const packed = zlib.gzipSync(Buffer.concat(keys));
    console.log(line, crypto.createHash('sha256').update(packed).digest('hex'));
  }
  clearInterval(timer);
  console.log(ticks > 0);
})();
