#pragma once

#include <string>
#include <vector>

#include "launcher/flight_records.h"

namespace hora {

/// Tells people what the records of one job's ranks say together: which rank left none or ended
/// with an exception, what ranks disagreed about, for every operation that some ranks wait for
/// which ranks have not submitted it and what these do instead, why the job ended, and what to do.
std::string explain(const std::vector<FlightRecord>& records);

/// The same for the records in `directory`, if they tell more than the ranks' own errors do: a wait
/// whose cause is no exception or death. Else empty, as where there are no records.
std::string explain_failure(const std::string& directory);

}  // namespace hora
