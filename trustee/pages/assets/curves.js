// Which figures of a run are drawn, and how.

import { number, percent, signed, words } from './words.js';

const PARTS = { waited_s: 'waiting for episodes', train_s: 'training', publish_s: 'publishing', checkpoint_s: 'saving' };
const ASPECTS = { most_tools: 'tools', most_calls: 'calls', most_turns: 'turns', most_strictness: 'criteria', most_guidance: 'guidance', most_ambiguity: 'ambiguity', most_persona: 'persona' };
const seconds = (value) => `${number(value)} s`;

function one(name, take) {
  return (steps) => [{ name, points: steps.map((step) => ({ x: step.step, y: take(step) ?? NaN })) }];
}

function several(names, take) {
  return (steps) => Object.entries(names)
    .map(([key, name], colour) => ({ name, colour, points: steps.map((step) => ({ x: step.step, y: take(step, key) ?? NaN })) }))
    .filter((series) => series.points.some((point) => Number.isFinite(point.y)));
}

function perRole(take, lacking) {
  return (steps) => {
    const roles = [...new Set(steps.flatMap((step) => Object.keys(take(step) || {})))].sort((a, b) => (a === 'policy' ? -1 : b === 'policy' ? 1 : a.localeCompare(b)));
    return roles.map((role, colour) => ({ name: role, colour, points: steps.map((step) => ({ x: step.step, y: take(step)?.[role] ?? (lacking === 0 ? 0 : NaN) })) }));
  };
}

function interim(steps, run) {
  return [['success', 'success'], ['low', 'from'], ['high', 'to']].map(([key, name], at) => ({ name, colour: 2, dashed: at > 0, points: (run?.interim || []).map((one) => ({ x: one.step, y: one[key] ?? NaN })) }));
}

const failures = (step) => Object.fromEntries(Object.entries(step).filter(([key, value]) => key.startsWith('failed_') && value > 0).map(([key, value]) => [key.slice(7), value]));

/** The charts of a run. `of` makes the series from its steps and the run itself; the first ones are shown at once, the rest on demand. */
export const CHARTS = [
  { key: 'reward', title: 'Reward', hint: 'mean of the step’s valid episodes; a curriculum makes tasks harder as the policy improves', of: one('reward', (step) => step.reward), format: (value) => signed(value), zero: true },
  { key: 'interim', title: 'Success on held-out tasks', hint: 'measured in training, with its 95 % interval', of: interim, low: 0, high: 1, format: (value) => percent(value, 0) },
  { key: 'difficulty', title: 'Difficulty', hint: 'of the curriculum, 1 to 100', of: one('difficulty', (step) => step.difficulty), low: 0 },
  { key: 'aspects', title: 'Hardest aspects allowed', hint: 'what a task may have at this difficulty', of: several(ASPECTS, (step, key) => step[key]), low: 0 },
  { key: 'mixed', title: 'Mixed groups', hint: 'share of groups whose rewards differ; only these teach', of: one('mixed', (step) => 1 - step.frac_reward_zero_std), low: 0, high: 1, format: (value) => percent(value, 0) },
  { key: 'clipped', title: 'Clipped tokens', hint: 'share of tokens clipped by the loss; it predicts a collapse', of: one('clipped', (step) => step.clip_ratio), low: 0, format: (value) => percent(value), limit: ['watch', 'clip_ratio'], limitName: 'alarm' },
  { key: 'mismatch', title: 'Engine against trainer', hint: 'mean difference of logprobs on fresh tokens, in nats', of: one('mismatch', (step) => step.mismatch_abs), low: 0, limit: ['watch', 'mismatch'], limitName: 'alarm' },
  { key: 'lag', title: 'Lag', hint: 'versions between playing and training', of: several({ lag_mean: 'mean', lag_max: 'most' }, (step, key) => step[key]), low: 0 },
  { key: 'rates', title: 'Tokens per second', hint: 'sampled, by role', of: perRole((step) => step.rates), low: 0 },
  { key: 'memory', title: 'Memory', hint: 'most in use after a micro-batch: of the card, or of the engine’s process', of: one('memory', (step) => step.memory / 2 ** 30 || NaN), low: 0, format: (value) => `${value.toFixed(1)} GiB` },
  { key: 'time', title: 'Time of a step', hint: 'seconds, by part', of: several(PARTS, (step, key) => step[key]), stacked: true, format: seconds },
  { key: 'failed', title: 'Failed episodes', hint: 'by the part that failed; never trained on', of: perRole(failures, 0), low: 0 },
  { key: 'entropy', title: 'Entropy', hint: 'mean per trained token, in nats', of: one('entropy', (step) => step.entropy), low: 0 },
  ...['loss', 'grad_norm', 'kl', 'learning_rate', 'ratio_max', 'turns', 'completion_tokens', 'episodes', 'dropped', 'too_long', 'anchor_correlation', 'held_out_loss'].map((key) => ({ key, title: words(key)[0].toUpperCase() + words(key).slice(1), of: one(words(key), (step) => step[key]), more: true })),
];
