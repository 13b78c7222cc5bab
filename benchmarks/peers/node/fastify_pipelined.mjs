// fastify and ioredis with auto-pipelining: the fastest of what people write without writing a server themselves.
// The rules of reading are those of contract/wire.py, the script and the answers are the engine's.

import { createHash, createHmac, randomUUID, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fastify from 'fastify'
import { Redis } from 'ioredis'

const SALE = 'bench'
const GATE_KEY = `{${SALE}}:gate`
const BODY_BYTES_MAX = 4096
const LINES_MAX = 16
const QUANTITY_MAX = 10_000
const TOKEN_BYTES_MAX = 2048
const KEY = /^[A-Za-z0-9_-]{16,64}$/
const SKU = /^[A-Za-z0-9._-]{1,64}$/
const BUYER = /^[A-Za-z0-9._@:|-]{1,128}$/
const ROLES = new Set(['buyer', 'admin'])
const ANSWERS = {
  malformed: [400, 'The request is malformed.'],
  duplicate_sku: [422, 'A SKU may stand on one line only.'],
  unauthenticated: [401, 'The request carries no valid identity.'],
  sold_out: [409, 'Not enough units are left.'],
  sale_not_open: [409, 'The sale is not open.'],
  in_flight: [409, 'Another attempt of this buyer is being decided.'],
  try_later: [503, 'Nothing was promised. Send the same key again.'],
}
const DETAILS = {
  sold_out: 'units may return; if this key was sent before, ask where `purchase` points',
  sale_not_open: 'GET /sales shows when it opens',
  in_flight: 'wait for its answer, then send this key again',
  try_later: 'nothing was promised; send the same key again after Retry-After seconds',
}

class Refusal extends Error {
  constructor(verdict, detail) {
    super(detail)
    this.verdict = verdict
  }
}

const redis = new Redis(process.env.FLASH_REDIS_URL, { enableAutoPipelining: true })
redis.defineCommand('reserve', { numberOfKeys: 1, lua: readFileSync(process.env.RESERVE_LUA, 'utf8') })
const runId = /run_id:(\w+)/.exec(await redis.info('server'))[1]
const secret = process.env.FLASH_JWT_SECRET
const identify = process.env.FLASH_AUTH === 'jwt' ? byToken : byWord

function byWord(headers) {
  return named(headers['buyer-id'] ?? '', 'buyer')
}

function byToken(headers) {
  const [scheme, token] = (headers.authorization ?? '').split(' ', 2)
  if (scheme.toLowerCase() !== 'bearer' || !token || token.length > TOKEN_BYTES_MAX) {
    throw new Refusal('unauthenticated', 'send Authorization: Bearer <token>')
  }
  const [head, claims, signature, more] = token.split('.')
  const wanted = createHmac('sha256', secret).update(`${head}.${claims}`).digest()
  const given = Buffer.from(signature ?? '', 'base64url')
  if (more !== undefined || given.length !== wanted.length || !timingSafeEqual(given, wanted)) {
    throw new Refusal('unauthenticated', 'the token is not valid here')
  }
  const { alg } = JSON.parse(Buffer.from(head, 'base64url'))
  const { iss, aud, sub, exp, role } = JSON.parse(Buffer.from(claims, 'base64url'))
  if (alg !== 'HS256' || iss !== 'flashsale' || aud !== 'flashsale' || !(exp > Date.now() / 1000)) {
    throw new Refusal('unauthenticated', 'the token is not valid here')
  }
  return named(sub, role)
}

function named(buyer, role) {
  if (typeof buyer !== 'string' || !BUYER.test(buyer) || !ROLES.has(role)) {
    throw new Refusal('unauthenticated', 'a buyer is named by 1 to 128 of A-Z a-z 0-9 . _ @ : | -')
  }
  return buyer
}

function readCart(document) {
  if (document === null || typeof document !== 'object' || !Array.isArray(document.items)) {
    throw new Refusal('malformed', 'the body must be an object with items')
  }
  for (const name in document) {
    if (name !== 'items') throw new Refusal('malformed', 'the body has an unknown field')
  }
  if (document.items.length < 1 || document.items.length > LINES_MAX) {
    throw new Refusal('malformed', `items must be a list of 1 to ${LINES_MAX} lines`)
  }
  const seen = new Set()
  for (const item of document.items) {
    if (item === null || typeof item !== 'object' || Object.keys(item).length !== 2) {
      throw new Refusal('malformed', 'a line has sku and quantity')
    }
    if (typeof item.sku !== 'string' || !SKU.test(item.sku)) throw new Refusal('malformed', 'not a SKU')
    if (!Number.isInteger(item.quantity) || item.quantity < 1 || item.quantity > QUANTITY_MAX) {
      throw new Refusal('malformed', `quantity must be an integer from 1 to ${QUANTITY_MAX}`)
    }
    if (seen.has(item.sku)) throw new Refusal('duplicate_sku', `${item.sku} stands on two lines`)
    seen.add(item.sku)
  }
  return document.items.toSorted((a, b) => (a.sku < b.sku ? -1 : 1))
}

function purchaseId(buyer, key) {
  const digest = createHash('blake2s256').update(`${buyer.length}:${buyer}:${key}`).digest('hex')
  return `${digest.slice(0, 8)}-${digest.slice(8, 12)}-8${digest.slice(13, 16)}-8${digest.slice(17, 20)}-${digest.slice(20, 32)}`
}

function refuse(reply, verdict, detail, purchase) {
  const [status, title] = ANSWERS[verdict]
  const problem = { type: `/problems/${verdict}`, title, status, verdict, detail }
  if (purchase) problem.purchase = purchase
  reply.code(status).header('content-type', 'application/problem+json').send(JSON.stringify(problem))
}

const app = fastify({ bodyLimit: BODY_BYTES_MAX, logger: false })
app.post('/purchases', async (request, reply) => {
  try {
    const key = request.headers['idempotency-key'] ?? ''
    if (!KEY.test(key)) throw new Refusal('malformed', 'Idempotency-Key must be 16 to 64 of A-Z a-z 0-9 _ -')
    const lines = readCart(request.body)
    const buyer = identify(request.headers)
    const purchase = purchaseId(buyer, key)
    const words = lines.flatMap(({ sku, quantity }) => [sku, quantity])
    const [word] = await redis.reserve(GATE_KEY, runId, 0, randomUUID(), purchase, buyer, ...words)
    const verdict = word in DETAILS ? word : 'try_later'
    refuse(reply, verdict, DETAILS[verdict], verdict === 'sold_out' ? `/purchases/${purchase}` : undefined)
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    refuse(reply, error.verdict, error.message)
  }
  return reply
})
await app.listen({ host: '127.0.0.1', port: Number(process.env.FLASH_PORT) })
