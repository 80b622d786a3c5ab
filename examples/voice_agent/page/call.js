"use strict";
// A call: one WebTransport session, its sent and received frames. It uses neither the audio devices nor the page.
// frames.py describes the layout of a frame. Arrivals counts like the class of the same name there.

const FRAME_MS = 20;
const BUFFER_MS = 200;
const HEADER_BYTES = 18;
const MAX_SAMPLES_BYTES = 640;
const PING_MS = 200;
const PINGS_REMEMBERED = 50;

class Arrivals {
  received = 0;
  late = 0;
  longestGapMs = 0;
  #highest = -1;
  #utterance = -1;
  #dueMs = 0;

  get missing() { return this.#highest + 1 - this.received; }

  add(frame, nowMs) {
    this.received += 1;
    this.#highest = Math.max(this.#highest, frame.sequence);
    if (frame.utterance !== this.#utterance) {
      this.#utterance = frame.utterance;
      this.#dueMs = Math.max(this.#dueMs, nowMs + BUFFER_MS);
    } else if (nowMs > this.#dueMs) {
      this.late += 1;
      this.longestGapMs = Math.max(this.longestGapMs, nowMs - this.#dueMs);
      this.#dueMs = nowMs;
    }
    this.#dueMs += FRAME_MS;
  }
}

function encode(sequence, utterance, samples) {
  const octets = new Uint8Array(HEADER_BYTES + samples.byteLength);
  const view = new DataView(octets.buffer);
  view.setUint32(0, sequence);
  view.setUint32(4, utterance);
  view.setFloat64(8, performance.timeOrigin + performance.now());
  view.setUint16(16, samples.byteLength);
  octets.set(new Uint8Array(samples.buffer), HEADER_BYTES);
  return octets;
}

class FrameReader {
  #rest = new Uint8Array(0);

  *feed(data) {
    const all = new Uint8Array(this.#rest.length + data.length);
    all.set(this.#rest);
    all.set(data, this.#rest.length);
    let at = 0;
    while (all.length - at >= HEADER_BYTES) {
      const view = new DataView(all.buffer, at, HEADER_BYTES);
      const length = view.getUint16(16);
      if (length > MAX_SAMPLES_BYTES) throw new Error(`a frame of ${length} octets`);
      if (all.length - at < HEADER_BYTES + length) break;
      const samples = new Int16Array(all.slice(at + HEADER_BYTES, at + HEADER_BYTES + length).buffer);
      yield {sequence: view.getUint32(0), utterance: view.getUint32(4), samples};
      at += HEADER_BYTES + length;
    }
    this.#rest = all.slice(at);
  }
}

// readyMs, firstFrameMs: since beganMs. heardByAgent: the agent's last report of its counts.
// lost: reason of the end; null while the call lasts, "" if this side hung up.
class Call {
  agent = "";
  framesSent = 0;
  prompts = 0;
  heard = new Arrivals();
  heardByAgent = {received: 0, missing: 0, sent: 0};
  roundTripsMs = [];
  pings = 0;
  pongs = 0;
  beganMs = performance.now();
  readyMs = null;
  firstFrameMs = null;
  lost = null;
  #writer = null;
  #control = null;
  #timer = null;
  #onFrame;

  // session: {url, sha256} from the page's server. onFrame: called with each received frame.
  constructor(session, onFrame) {
    this.#onFrame = onFrame;
    const value = Uint8Array.from(session.sha256.match(/../g), pair => parseInt(pair, 16));
    this.transport = new WebTransport(session.url, {serverCertificateHashes: [{algorithm: "sha-256", value}]});
    this.ended = this.#run().catch(error => { this.lost ??= String(error.message || error); });
  }

  get inPrompt() { return this.#writer !== null; }

  // Send 20 ms of a prompt. The first frame after end() begins the next prompt.
  async send(samples) {
    if (!this.#control) return;
    const frame = encode(this.framesSent++, this.prompts, samples);
    this.#writer ??= this.transport.createUnidirectionalStream().then(stream => stream.getWriter());
    const writer = await this.#writer;
    await writer.write(frame);
  }

  // End the prompt, so that the agent answers.
  async end() {
    if (!this.#writer) return;
    const ending = this.#writer;
    this.#writer = null;
    this.prompts += 1;
    await (await ending).close();
  }

  hangUp() {
    clearInterval(this.#timer);
    this.lost ??= "";
    this.transport.close();
  }

  async #run() {
    this.transport.ready.catch(() => {});
    this.#listen().catch(() => {});
    await this.transport.ready;
    this.readyMs = performance.now() - this.beganMs;
    const {datagrams} = this.transport;
    this.#control = (datagrams.createWritable ? datagrams.createWritable() : datagrams.writable).getWriter();
    this.#timer = setInterval(() => this.#ping(), PING_MS);
    this.#ping();
    this.#readControl(datagrams.readable.getReader()).catch(() => {});
    try {
      await this.transport.closed;
      this.lost ??= "the agent hung up";
    } catch (error) {
      this.lost ??= String(error.message || error);
    } finally {
      clearInterval(this.#timer);
    }
  }

  #ping() {
    const ping = {ping: this.pings++, at: performance.now()};
    this.#control.write(new TextEncoder().encode(JSON.stringify(ping))).catch(() => {});
  }

  async #readControl(reader) {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const pong = JSON.parse(new TextDecoder().decode(value));
      this.pongs += 1;
      this.agent = pong.agent;
      this.heardByAgent = pong;
      this.roundTripsMs.push(performance.now() - pong.at);
      if (this.roundTripsMs.length > PINGS_REMEMBERED) this.roundTripsMs.shift();
    }
  }

  async #listen() {
    const streams = this.transport.incomingUnidirectionalStreams.getReader();
    for (;;) {
      const {value, done} = await streams.read();
      if (done) return;
      await this.#readUtterance(value.getReader());
    }
  }

  async #readUtterance(stream) {
    const frames = new FrameReader();
    for (;;) {
      const {value, done} = await stream.read();
      if (done) return;
      const nowMs = performance.now();
      for (const frame of frames.feed(value)) {
        this.firstFrameMs ??= nowMs - this.beganMs;
        this.heard.add(frame, nowMs);
        this.#onFrame(frame);
      }
    }
  }
}
