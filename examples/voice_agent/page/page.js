"use strict";
// The page: audio input, audio output, and the display of the call.

const LOUD = 0.012; // minimum root mean square of a frame with speech
const SILENT_FRAMES = 30; // number of quiet frames that end a prompt
const LONGEST_PROMPT = 500; // frames
const HISTORY = 300; // drawn points, 100 ms apart
const DRAWN_S = 6;

const at = id => document.getElementById(id);
let call = null;
let audio = null;
let bufferedS = 0;
let quiet = 0;
let inPrompt = 0;
let network = {outside: null, changes: 0, each_second: false};
let changesBefore = 0;
const drawn = []; // {bufferedS, changed}

async function openAudio(microphone) {
  const context = new AudioContext({sampleRate: 16000});
  await context.audioWorklet.addModule("worklet.js");
  const stream = microphone ? await navigator.mediaDevices.getUserMedia({audio: {echoCancellation: true}}) : null;
  const source = stream ? context.createMediaStreamSource(stream) : new AudioWorkletNode(context, "babble", {numberOfInputs: 0});
  const cutter = new AudioWorkletNode(context, "cutter", {numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit"});
  const player = new AudioWorkletNode(context, "player", {numberOfInputs: 0});
  cutter.port.onmessage = ({data}) => heard(data, microphone);
  player.port.onmessage = ({data}) => { bufferedS = data; };
  source.connect(cutter);
  player.connect(context.destination);
  await context.resume();
  return {
    play: samples => player.port.postMessage(samples),
    close() {
      stream?.getTracks().forEach(track => track.stop());
      return context.close();
    },
  };
}

// A prompt begins with a loud frame and ends after SILENT_FRAMES quiet ones. While the loudspeaker plays the agent's
// voice, the microphone is ignored, because it would record the agent.
function heard(samples, microphone) {
  const loudness = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length) / 32768;
  const loud = loudness > LOUD && !(microphone && bufferedS > 0 && !inPrompt);
  quiet = loud ? 0 : quiet + 1;
  if (!call || (!inPrompt && !loud)) return;
  inPrompt += 1;
  call.send(samples).catch(() => {});
  if (quiet >= SILENT_FRAMES || inPrompt >= LONGEST_PROMPT) {
    inPrompt = 0;
    call.end().catch(() => {});
  }
}

async function begin() {
  at("call").disabled = true;
  try {
    audio = await openAudio(at("voice").value === "microphone");
    const session = await (await fetch("session")).json();
    changesBefore = network.changes;
    inPrompt = 0;
    call = new Call(session, frame => audio?.play(frame.samples));
    call.ended.then(closeAudio);
  } catch (error) {
    say(`cannot call: ${error.message}`, "bad");
    await closeAudio();
  }
  at("call").disabled = false;
}

async function closeAudio() {
  const closing = audio;
  audio = null;
  bufferedS = 0;
  await closing?.close();
}

function say(text, kind) {
  at("state").textContent = text;
  at("state").className = kind;
}

function show() {
  const live = Boolean(call) && call.lost === null;
  at("call").textContent = live ? "Hang up" : "Call";
  at("voice").disabled = live;
  if (call) {
    if (live) say(call.readyMs === null ? "connecting" : "connected", "good");
    else say(call.lost ? `lost: ${call.lost}` : "hung up", call.lost ? "bad" : "");
    showCall();
  }
  at("speaking").textContent = !live ? "" : call.inPrompt ? "you speak" : bufferedS > 0 ? "the agent speaks" : "";
  drawn.push({bufferedS, changed: false});
  if (drawn.length > HISTORY) drawn.shift();
  draw();
}

function showCall() {
  const {heardByAgent, heard: down, roundTripsMs} = call;
  const least = Math.min(...roundTripsMs);
  at("agent").textContent = call.agent || "–";
  at("round-trip").textContent = roundTripsMs.length ? `${roundTripsMs.at(-1).toFixed(0)} ms (${least.toFixed(0)})` : "–";
  at("setup").textContent = call.firstFrameMs === null ? "–"
    : `${call.firstFrameMs.toFixed(0)} ms` + (least >= 10 ? ` = ${(call.firstFrameMs / least).toFixed(1)} × round trip` : "");
  at("buffer").textContent = `${bufferedS.toFixed(2)} s`;
  at("changes").textContent = network.changes - changesBefore;
  at("up-sent").textContent = call.framesSent;
  at("up-received").textContent = heardByAgent.received;
  at("up-missing").textContent = heardByAgent.missing;
  at("down-sent").textContent = heardByAgent.sent;
  at("down-received").textContent = down.received;
  at("down-missing").textContent = down.missing;
  at("down-late").textContent = down.late;
  at("down-gap").textContent = `${down.longestGapMs.toFixed(0)} ms`;
  at("pings").textContent = call.pings;
  at("pongs").textContent = call.pongs;
}

function draw() {
  const x = index => index * 600 / (HISTORY - 1);
  const y = seconds => 90 - 90 * Math.min(seconds, DRAWN_S) / DRAWN_S;
  const top = drawn.map((point, index) => `${x(index)},${y(point.bufferedS)}`);
  at("area").setAttribute("points", [`0,90`, ...top, `${x(drawn.length - 1)},90`].join(" "));
  at("marks").replaceChildren(...drawn.flatMap((point, index) => {
    if (!point.changed) return [];
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({x1: x(index), x2: x(index), y1: 0, y2: 90})) line.setAttribute(name, value);
    return [line];
  }));
}

async function askNetwork(change) {
  const answer = change ? await fetch(`network?change=${change}`, {method: "POST"}) : await fetch("network");
  const before = network;
  network = await answer.json();
  at("outside").textContent = network.outside ?? "–";
  at("each-second").checked = network.each_second;
  at("change").disabled = at("each-second").disabled = false;
  if (network.changes > before.changes && drawn.length) drawn.at(-1).changed = true;
}

// Send one request at a time, so that a slow answer cannot overwrite a newer one.
async function watchNetwork() {
  for (;;) {
    try {
      await askNetwork();
    } catch {
      at("change").disabled = at("each-second").disabled = true;
    }
    await new Promise(resolve => setTimeout(resolve, 250));
  }
}

at("call").onclick = () => call?.lost === null ? call.hangUp() : begin();
at("change").onclick = () => askNetwork("once");
at("each-second").onchange = event => askNetwork(event.target.checked ? "each-second" : "never");
setInterval(show, 100);
watchNetwork();
