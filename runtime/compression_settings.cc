#include "runtime/compression_settings.h"

#include "compressors/rules.h"
#include "ops/auto_chain.h"

namespace hora {
namespace {

Status check_speeds(const Config& config) {
  if (config.codec_speeds == kMeasureSpeeds) return {};
  const auto speeds = parse_speeds(config.codec_speeds);
  if (speeds.ok()) return {};
  return Status(Code::kInvalidArgument, "HORA_CODEC_SPEEDS: " + speeds.status().message());
}

}  // namespace

Status check_compression(const Config& config) {
  const auto rules = CompressionRules::parse(config.compression);
  if (!rules.ok())
    return Status(Code::kInvalidArgument, "HORA_COMPRESSION: " + rules.status().message());
  return check_speeds(config);
}

Status check_compression_before_start(const Config& config) {
  return unknown_stage(config.compression).empty() ? check_compression(config)
                                                   : check_speeds(config);
}

}  // namespace hora
