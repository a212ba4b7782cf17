#include "launcher/agents.h"

#include <algorithm>
#include <utility>
#include <variant>

#include <fmt/format.h>
#include <sys/wait.h>

namespace hora {

Status Agents::summon(const RemoteHost::Route& route, agent_wire::Task task) {
  const auto found = hosts_.find(route.name);
  const bool known = found != hosts_.end();
  if (known && !found->second.lost) return {};
  auto connection = RemoteHost::start(route, clock_);
  if (!connection.ok())
    return Status(Code::kUnavailable,
                  fmt::format("host {}: {}", route.name, connection.status().message()));
  if (known) retired_.push_back(std::move(found->second.connection));
  hosts_.insert_or_assign(route.name, Agent(std::move(connection).value(), route.shell,
                                            std::move(task), Deadline(clock_, start_timeout_)));
  return {};
}

void Agents::start(const std::string& host, int rank, uint32_t task,
                   std::vector<std::string> environment) {
  Agent& agent = hosts_.at(host);
  const Order order{rank, {task, std::move(environment)}};
  if (agent.ready)
    begin(agent, order);
  else
    agent.waiting.push_back(order);
}

void Agents::begin(Agent& agent, const Order& order) {
  agent.connection->send(order.start);
  agent.ranks.push_back(order.rank);
  agent.running.push_back(true);
}

void Agents::kill(int rank, int signal) {
  for (auto& [host, agent] : hosts_) {
    const auto is_it = [rank](const Order& order) { return order.rank == rank; };
    if (std::erase_if(agent.waiting, is_it) > 0)
      return hands_.ended(rank, 0, W_EXITCODE(0, signal));
    for (size_t i = 0; i < agent.ranks.size(); ++i)
      if (agent.ranks[i] == rank && agent.running[i])
        agent.connection->send(
            agent_wire::Kill{static_cast<uint32_t>(i), static_cast<uint32_t>(signal)});
    agent.connection->flush();
  }
}

void Agents::dismiss() {
  for (auto& [host, agent] : hosts_) agent.connection->send(agent_wire::Finish{});
}

bool Agents::all_ready() const {
  return std::all_of(hosts_.begin(), hosts_.end(), [](const auto& of) { return of.second.ready; });
}

bool Agents::all_gone() const {
  return std::all_of(hosts_.begin(), hosts_.end(),
                     [](const auto& of) { return of.second.connection->gone(); });
}

void Agents::add_to(std::vector<pollfd>& entries, bool reads) const {
  for (const auto& [host, agent] : hosts_) agent.connection->add_to(entries, reads);
}

void Agents::attend(bool reads) {
  retired_.clear();
  for (auto& [host, agent] : hosts_) attend(host, agent, reads);
}

void Agents::attend(const std::string& host, Agent& agent, bool reads) {
  RemoteHost& connection = *agent.connection;
  std::vector<agent_wire::Message> messages;
  connection.attend(reads, messages);
  for (const agent_wire::Message& message : messages) {
    hear(host, agent, message);
    if (agent.connection.get() != &connection) return;  // lost, and summoned again
  }
  for (const std::string& remark : connection.take_remarks())
    if (agent.ready) hands_.say(fmt::format("{}: {}", host, remark));
  if (!agent.ready && !agent.lost && agent.ready_before.passed())
    connection.give_up(fmt::format("no answer from `{} {}` within {} s (--start-timeout)",
                                   agent.shell, host,
                                   std::chrono::duration<double>(start_timeout_).count()));
  if (connection.gone()) lose(host, agent, connection.obituary());
}

void Agents::hear(const std::string& host, Agent& agent, const agent_wire::Message& message) {
  const auto knows = [&](uint32_t number) { return number < agent.ranks.size(); };
  if (const auto* const hello = std::get_if<agent_wire::Hello>(&message)) {
    greet(host, agent, *hello);
  } else if (const auto* const refused = std::get_if<agent_wire::Refused>(&message)) {
    lose(host, agent, refused->reason);
  } else if (std::holds_alternative<agent_wire::Ready>(message)) {
    agent.ready = true;
    for (const Order& order : std::exchange(agent.waiting, {})) begin(agent, order);
  } else if (const auto* const output = std::get_if<agent_wire::Output>(&message)) {
    if (knows(output->rank))
      hands_.output(agent.ranks[output->rank], output->error != 0, output->bytes);
  } else if (const auto* const end = std::get_if<agent_wire::Ended>(&message)) {
    if (!knows(end->rank) || !agent.running[end->rank]) return;
    agent.running[end->rank] = false;
    hands_.ended(agent.ranks[end->rank], static_cast<pid_t>(end->pid),
                 static_cast<int>(end->wait_status));
  } else if (const auto* const record = std::get_if<agent_wire::Record>(&message)) {
    hands_.keep(*record);
  }
}

void Agents::greet(const std::string& host, Agent& agent, const agent_wire::Hello& hello) {
  if (hello.protocol == agent_wire::kProtocol && hello.version == HORA_VERSION)
    return agent.connection->send(agent.task);
  lose(host, agent,
       fmt::format("it has Hora {}, and this machine {}: install the same on both", hello.version,
                   HORA_VERSION));
}

void Agents::lose(const std::string& host, Agent& agent, const std::string& why) {
  if (std::exchange(agent.lost, true)) return;
  Loss loss{host, fmt::format("host {}: {}", host, why), agent.ready, {}};
  for (const Order& order : std::exchange(agent.waiting, {})) loss.ranks.push_back(order.rank);
  for (size_t i = 0; i < agent.ranks.size(); ++i)
    if (agent.running[i]) loss.ranks.push_back(agent.ranks[i]);
  agent.running.assign(agent.running.size(), false);
  hands_.lost(loss);
}

bool Agents::reaped(pid_t pid, int wait_status) {
  for (auto& [host, agent] : hosts_) {
    if (agent.connection->pid() != pid) continue;
    agent.connection->reaped(wait_status);
    return true;
  }
  return false;
}

}  // namespace hora
