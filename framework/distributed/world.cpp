#include "framework/distributed/world.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"

namespace regroup {
namespace {

/// rank = replica * shards + shard.
struct Mesh {
  int shards, replicas;
};

Mesh mesh_of(Strategy strategy, const Launch& launch) {
  switch (strategy) {
    case Strategy::kReplicate:
      return {1, launch.size};
    case Strategy::kShard:
      return {launch.size, 1};
    case Strategy::kHybrid:
      if (launch.has_equal_nodes()) return {launch.local_size, launch.size / launch.local_size};
  }
  throw request_error("dist.strategy",
                      c10::str("hybrid needs nodes with equally many processes, ranks node by "
                               "node; rank ",
                               launch.rank, " is number ", launch.local_rank, " of ",
                               launch.local_size, " on its node, of ", launch.size, " in all"),
                      "Start as many on every node, or take strategy = shard.");
}

}  // namespace

const EnumNames<Strategy>& strategies() {
  static const EnumNames<Strategy> names{{"replicate", Strategy::kReplicate},
                                         {"shard", Strategy::kShard},
                                         {"hybrid", Strategy::kHybrid}};
  return names;
}

World::World(Peers& peers, const DistOptions& options, torch::Device device)
    : peers_(&peers), options_(options) {
  const auto& launch = peers.launch();
  const auto mesh = mesh_of(options.strategy, launch);
  check_backend(options.backend, device);
  const auto place = [&](const std::string& group, int rank, int size) {
    return GroupPlace{peers.store(group), rank, size, std::chrono::seconds(options.timeout_s)};
  };
  const auto data_ranks = [&](const std::string& group, int rank, int size) {
    return size == 1 ? nullptr
                     : std::make_shared<Ranks>(
                           make_backend(options.backend, device, place(group, rank, size), launch));
  };
  try {
    control_ = std::make_unique<Ranks>(make_gloo(place("all", launch.rank, launch.size), launch));
    const int shard = launch.rank % mesh.shards, replica = launch.rank / mesh.shards;
    shards_ = data_ranks(c10::str("shards/", replica), shard, mesh.shards);
    replicas_ = data_ranks(c10::str("replicas/", shard), replica, mesh.replicas);
  } catch (const c10::Error& error) {
    const std::string reason = error.what_without_backtrace();
    throw PeerFailure("the processes could not connect: " + reason.substr(0, reason.find('\n')));
  }
}

std::vector<double> World::sum(const std::vector<double>& numbers) {
  if (!peers_) return numbers;
  const auto part = torch::tensor(numbers, torch::kFloat64);
  const auto all = torch::empty({size() * part.numel()}, torch::kFloat64);
  control_->all_gather(all, part).wait();
  std::vector<double> sums(numbers.size(), 0);
  const auto* next = all.const_data_ptr<double>();
  for (int rank = 0; rank < size(); ++rank) {
    for (auto& sum : sums) sum += *next++;
  }
  return sums;
}

void World::all_reduce(const torch::Tensor& tensor) {
  if (peers_) control_->all_reduce(tensor).wait();
}

void World::broadcast(const torch::Tensor& tensor, int from) {
  if (peers_) control_->broadcast(tensor, from).wait();
}

void World::all_or_throw(const std::function<void()>& work) {
  if (!peers_) return work();
  std::optional<Error> failure;
  try {
    work();
  } catch (const Error& error) {
    failure = error;
  }
  std::vector<double> failed(static_cast<size_t>(size()), 0);
  failed[static_cast<size_t>(rank())] = failure ? 1 : 0;
  const auto all = sum(failed);
  const auto name = next_name("error");
  const auto first = std::find(all.begin(), all.end(), 1);
  if (first == all.end()) return;
  const int failed_rank = static_cast<int>(first - all.begin());
  if (failed_rank == rank())
    peers_->post(name, nlohmann::json{{"message", failure->what()},
                                      {"exit_code", static_cast<int>(failure->exit_code())}}
                           .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (failure) throw *failure;
  const auto reported = nlohmann::json::parse(peers_->await(failed_rank, name));
  throw Error(c10::str("rank ", failed_rank), reported.at("message"),
              "The other processes stop too.",
              static_cast<ExitCode>(reported.at("exit_code").get<int>()));
}

void World::report_failure_of(const std::function<void()>& work) {
  try {
    work();
  } catch (...) {
    if (peers_) peers_->report_failure(describe_failure(std::current_exception()));
    throw;
  }
}

void World::on_rank_0(const std::function<void()>& work) {
  broadcast_string([&] {
    work();
    return std::string();
  });
}

std::string World::broadcast_string(const std::function<std::string()>& work) {
  const auto name = next_name("string");
  if (!is_rank_0()) return peers_->await(0, name);
  const auto text = work();
  if (peers_) peers_->post(name, text);
  return text;
}

void World::require_equal(const std::map<std::string, std::string>& values) {
  if (peers_) peers_->require_equal(next_name("values"), values);
}

void World::gather_strings(const std::string& name, const std::string& text,
                           const std::function<void(const std::vector<std::string>&)>& use) {
  if (!peers_) return use({text});
  if (!is_rank_0()) {
    peers_->post(name, text);
    peers_->await(0, name);
    return peers_->withdraw(name);
  }
  std::vector<std::string> texts{text};
  for (int other = 1; other < size(); ++other) texts.push_back(peers_->await(other, name));
  use(texts);
  peers_->post(name, "");
}

std::shared_ptr<Sharing> World::new_sharing() const {
  if (!peers_) return nullptr;
  return std::make_shared<Sharing>(shards_, replicas_, options_.wire_dtype, options_.reduce_dtype);
}

int64_t World::sent_bytes() const {
  return (shards_ ? shards_->sent_bytes() : 0) + (replicas_ ? replicas_->sent_bytes() : 0);
}

}  // namespace regroup
