#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace hora::benchmarks {

/// The value that a share of the samples (0 to 1) does not exceed.
double quantile(std::vector<double> samples, double share);

/// Processor, cores, kernel, load: what a number depends on.
nlohmann::json describe_machine();

/// Writes `report` to the file, if one is named.
void write_json(const std::string& path, const nlohmann::json& report);
nlohmann::json read_json(const std::string& path);  ///< null if it cannot be read

/// GB/s of a streaming copy of this thread, measured for about a tenth of a second. Run it on all
/// ranks at once to learn what each gets of the machine.
double copy_bandwidth();

/// "64M" as a number of bytes; gives 0 for what is none.
size_t parse_bytes(const std::string& text);

}  // namespace hora::benchmarks
