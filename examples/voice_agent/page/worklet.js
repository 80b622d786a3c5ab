"use strict";
// Code for the audio thread: a generated voice, the division of audio into frames, and the play-out buffer.

const SAMPLES_PER_FRAME = 320;
const TALK_S = 2;
const PAUSE_S = 2;
const SYLLABLE_S = 0.2;
const VOWELS = [[730, 1090], [270, 2290], [300, 870], [530, 1840], [570, 840]]; // Hz
const START_SAMPLES = 0.2 * sampleRate;
const TELL_EVERY = 8; // blocks of 128 samples

// Generate two seconds of babble, then a pause for the answer.
class Babble extends AudioWorkletProcessor {
  #at = 0;
  #phase = 0;
  #memory = [[0, 0], [0, 0]];

  process(_, [[output]]) {
    for (let i = 0; i < output.length; i++) output[i] = this.#next();
    return true;
  }

  #next() {
    const at = this.#at++ / sampleRate % (TALK_S + PAUSE_S);
    if (at >= TALK_S) return 0;
    const syllable = Math.floor(at / SYLLABLE_S);
    const part = at / SYLLABLE_S - syllable;
    const pitch = 140 - 15 * at + 10 * Math.sin(syllable * 2.4);
    this.#phase += pitch / sampleRate;
    const pulse = this.#phase >= 1 ? 1 : 0;
    this.#phase %= 1;
    const vowel = VOWELS[syllable * 3 % VOWELS.length];
    let sum = 0;
    vowel.forEach((hz, i) => {
      const radius = Math.exp(-Math.PI * 110 / sampleRate);
      const [last, before] = this.#memory[i];
      const value = pulse + 2 * radius * Math.cos(2 * Math.PI * hz / sampleRate) * last - radius * radius * before;
      this.#memory[i] = [value, last];
      sum += value;
    });
    return 0.06 * sum * Math.sin(Math.PI * part) ** 0.7;
  }
}

// Divide the input into frames of 20 ms.
class Cutter extends AudioWorkletProcessor {
  #frame = new Int16Array(SAMPLES_PER_FRAME);
  #filled = 0;

  process([[input]]) {
    for (const sample of input ?? []) {
      this.#frame[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.#filled === SAMPLES_PER_FRAME) {
        this.port.postMessage(this.#frame, [this.#frame.buffer]);
        this.#frame = new Int16Array(SAMPLES_PER_FRAME);
        this.#filled = 0;
      }
    }
    return true;
  }
}

// Play frames in order. Playback begins when 200 ms are buffered, or when no frame has arrived for 200 ms.
class Player extends AudioWorkletProcessor {
  #queue = [];
  #at = 0;
  #samples = 0;
  #playing = false;
  #waited = 0;
  #blocks = 0;

  constructor() {
    super();
    this.port.onmessage = ({data}) => {
      this.#queue.push(data);
      this.#samples += data.length;
      this.#waited = 0;
    };
  }

  process(_, [[output]]) {
    this.#waited += output.length;
    const enough = this.#samples >= START_SAMPLES || this.#waited >= START_SAMPLES;
    this.#playing = this.#samples > 0 && (this.#playing || enough);
    if (this.#playing) this.#fill(output);
    if (this.#blocks++ % TELL_EVERY === 0) this.port.postMessage(this.#samples / sampleRate);
    return true;
  }

  #fill(output) {
    for (let i = 0; i < output.length && this.#queue.length; i++) {
      output[i] = this.#queue[0][this.#at++] / 32768;
      this.#samples -= 1;
      if (this.#at === this.#queue[0].length) {
        this.#queue.shift();
        this.#at = 0;
      }
    }
  }
}

registerProcessor("babble", Babble);
registerProcessor("cutter", Cutter);
registerProcessor("player", Player);
