// Goal: what other launchers say of hosts is read as they mean it, and what they could not mean
// disturbs nobody. Method: find_slurm_hosts() and first_slurm_host() on texts; config_test.cc has
// the rest.
#include "runtime/foreign_job.h"

#include <map>

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(FirstSlurmHost, IsTheFirstOfRangesAndLists) {
  EXPECT_EQ(first_slurm_host("node1"), "node1");
  EXPECT_EQ(first_slurm_host("node1,node2"), "node1");
  EXPECT_EQ(first_slurm_host("node[2,4]"), "node2");
  EXPECT_EQ(first_slurm_host("gpu[03-06,9],login1"), "gpu03");
  EXPECT_EQ(first_slurm_host("r[1-2]n[07-08]x,other"), "r1n07x");
  EXPECT_EQ(first_slurm_host("a-b"), "a-b");
  EXPECT_EQ(first_slurm_host("n["), "n");
  EXPECT_EQ(first_slurm_host(""), "");
}

std::vector<int> tasks_of(const std::string& text, const std::string& nodes) {
  const std::map<std::string, std::string, std::less<>> variables = {
      {"SLURM_STEP_TASKS_PER_NODE", text}, {"SLURM_STEP_NUM_NODES", nodes}};
  return find_slurm_hosts([&](std::string_view name) {
           const auto found = variables.find(name);
           return found == variables.end() ? nullptr : &found->second;
         })
      .tasks;
}

TEST(SlurmHosts, TasksAreCountedForEachNode) {
  EXPECT_EQ(tasks_of("2", "1"), std::vector<int>{2});
  EXPECT_EQ(tasks_of("2(x3),1", "4"), (std::vector<int>{2, 2, 2, 1}));
  EXPECT_EQ(tasks_of("1,2(x1),3", "3"), (std::vector<int>{1, 2, 3}));
}

TEST(SlurmHosts, WhatDoesNotFitIsNotTold) {
  for (const char* const text : {"", "x", "2(x3", "2(x9999999999)", "2(x2),", "-1", "1(2)"})
    EXPECT_EQ(tasks_of(text, "3"), std::vector<int>{}) << text;
}

}  // namespace
}  // namespace hora
