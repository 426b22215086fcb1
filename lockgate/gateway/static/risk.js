// Scores as words and as tints. A score is a logit: one unit more multiplies the odds by e.

const SPAN = 6; // logits below the threshold at which the tint begins
const CLOSE = 1.5; // logits below the threshold that count as close to it

/** 0 (far below the threshold) to 1 (at or above it), in steps of 0.05. */
export function riskOf(score, threshold) {
  if (score === null || threshold === null) return 0;
  return Math.round(20 * Math.min(1, Math.max(0, 1 + (score - threshold) / SPAN))) / 20;
}

export function bandOf(score, threshold) {
  if (score === null || threshold === null) return "none";
  if (score > threshold) return "over";
  return score > threshold - CLOSE ? "close" : "below";
}

export function describeScore(score, threshold) {
  if (score === null) return "not scored";
  if (threshold === null) return `score ${format(score)}`;
  const side = score > threshold ? "above" : "below";
  return `score ${format(score)}, ${format(Math.abs(score - threshold))} ${side} the threshold`;
}

export function format(number) {
  return number.toFixed(2).replace("-", "−");
}

export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
