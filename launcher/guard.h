#pragma once

#include <functional>
#include <string>

#include "runtime/clock.h"

namespace hora {

/// Kills and reaps all children of this process, and theirs as they become ours (this process must
/// be a subreaper), until none is left or a deadline of some seconds has passed.
void kill_descendants(const Clock& clock);

/// Runs `work` in a child process, with a private directory that is removed afterwards, and returns
/// its result. The two processes watch each other: if this one is killed the child gets SIGHUP; if
/// the child is killed, whatever it started is adopted here and killed. So nothing of a job stays
/// behind however one of them ends. SIGINT, SIGTERM and SIGHUP are passed on to the child, which
/// begins with these and SIGCHLD blocked, in its own process group.
int run_guarded(const Clock& clock, const std::function<int(const std::string& directory)>& work);

}  // namespace hora
