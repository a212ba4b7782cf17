#pragma once

#include <string>
#include <vector>

#include "hora/config.h"
#include "launcher/elastic.h"
#include "launcher/run.h"

namespace CLI {
class App;
}

namespace hora {

/// The options of horarun that make a job elastic, under Horovod's names where it has them.
///
/// Ownership: `app` borrows both this object and `options` until it has parsed.
class ElasticOptions {
 public:
  void add_to(CLI::App& app, RunOptions& options);

  /// After parsing: completes `options`. What is wrong with them, or nothing.
  std::string check(const CLI::App& app, RunOptions& options) const;

 private:
  int min_ranks_ = 0, max_ranks_ = 0;
  std::vector<std::string> cooldown_;
};

/// What `options` ask of the supervisor. Needs options.elastic.
ElasticPlan elastic_plan(const RunOptions& options, const Config& config);

}  // namespace hora
