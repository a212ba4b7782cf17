// Goal: ranks share the processors that this job may really use.
// Method: made-up /proc and /sys trees of both cgroup versions.
#include "launcher/cores.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace hora {
namespace {

class Machine : public testing::Test {
 protected:
  Machine() { EXPECT_NE(::mkdtemp(root_.data()), nullptr); }
  ~Machine() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root_ = "/tmp/hora-test-XXXXXX";
};

TEST_F(Machine, HasNoQuotaWhereNothingSaysSo) {
  EXPECT_EQ(quota_cores(root_), 0);
  EXPECT_GE(allowed_cores(root_), 1);
}

TEST_F(Machine, Version2TakesTheLeastQuotaOnTheWayToTheRoot) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota_cores(root_), 0);
  write("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  EXPECT_EQ(quota_cores(root_), 3);
  write("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota_cores(root_), 1);
  EXPECT_EQ(allowed_cores(root_), 1);
}

TEST_F(Machine, Version1ReadsItsTwoFiles) {
  write("/proc/self/cgroup", "9:memory:/m\n4:cpu,cpuacct:/job\n0::/\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "200000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota_cores(root_), 2);
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(quota_cores(root_), 0);
}

TEST_F(Machine, AContainersPathThatDoesNotExistEndsAtItsRoot) {
  write("/proc/self/cgroup", "0::/docker/123\n");
  write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota_cores(root_), 4);
}

}  // namespace
}  // namespace hora
