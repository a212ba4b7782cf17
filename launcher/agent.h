#pragma once

namespace hora {

/// `horarun --agent`, which horarun starts on another host: takes its part of a job from stdin,
/// starts those ranks, and reports what they print and how they end on stdout (agent_wire.h).
/// Nothing of theirs is left when stdin ends, however that came. Returns the exit code.
int agent_main();

}  // namespace hora
