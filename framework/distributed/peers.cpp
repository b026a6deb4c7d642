#include "framework/distributed/peers.h"

#include <c10/util/Logging.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"

namespace regroup {
namespace {

using Clock = Board::Clock;

constexpr Board::milliseconds kDiagnosis{3400};  // the longest that diagnose() waits for notices
constexpr Board::milliseconds kReportWait{900};  // the longest wait for the reporter
constexpr size_t kMostOfMessage = 2500;          // characters

/// Keeps c10d from logging a stack trace for each broken connection, and NCCL's watchdog from
/// aborting the process: diagnose() explains the cause. Variables that the user has set stay.
void silence_engine() {
  setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
  c10::initLogging();
}

int lowest_left(const Board::View& view) {
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    const auto& notice = view.peers[static_cast<size_t>(rank)].notice;
    const bool is_done = notice.left && !notice.failure;
    if (!view.is_gone(rank) && !is_done) return rank;
  }
  return 0;
}

/// True if is_so(rank, notice) holds for every rank.
template <typename IsSo>
bool all_ranks(const Board::View& view, const IsSo& is_so) {
  int rank = 0;
  return std::all_of(view.peers.begin(), view.peers.end(),
                     [&](const Board::Seen& peer) { return is_so(rank++, peer.notice); });
}

bool is_cause(const std::optional<Failure>& failure) { return failure && !failure->is_of_peer; }

/// True where every process failed by itself: a request that none of them could fulfil.
bool all_failed(const Board::View& view) {
  return all_ranks(view, [](int, const auto& notice) { return is_cause(notice.failure); });
}

/// The lowest rank that failed by itself: the failure to show.
std::optional<int> first_failed(const Board::View& view) {
  for (size_t rank = 0; rank < view.peers.size(); ++rank) {
    const auto& failure = view.peers[rank].notice.failure;
    if (is_cause(failure)) return static_cast<int>(rank);
  }
  return std::nullopt;
}

std::string gone_text(const Board::View& view, const std::string& symptom) {
  std::string text = ranks_text(view.gone);
  for (const int rank : view.gone) {
    const auto& notice = view.peers[static_cast<size_t>(rank)].notice;
    text += c10::str(rank == view.gone[0] ? " (" : "; ", "process ", notice.process, " on ",
                     notice.host);
  }
  return c10::str(text, view.gone.size() == 1 ? ") is gone" : ") are gone",
                  ": killed, hung or cut off (", symptom,
                  "). Look at that process's log and machine, then go on with --resume; torchrun "
                  "--max-restarts does it by itself.");
}

/// own: the failure of this process.
Verdict verdict_on(const Board::View& view, const Failure& own) {
  Verdict verdict{own.message, own.exit_code};
  const auto failed = first_failed(view);
  if (failed) {
    const auto& failure = *view.peers[static_cast<size_t>(*failed)].notice.failure;
    verdict.message =
        all_failed(view) ? failure.message : c10::str("rank ", *failed, ": ", failure.message);
    verdict.exit_code = failure.exit_code;
  } else if (!view.gone.empty()) {
    verdict.message = gone_text(view, own.message);
  } else if (own.is_of_peer) {
    verdict.message =
        c10::str("the processes lost touch, though all of them are alive: ", own.message,
                 ". A step may take longer than dist.timeout_s, or the network drops connections.");
  }
  verdict.reporter = lowest_left(view);
  return verdict;
}

}  // namespace

Peers::Peers(const Launch& launch, std::chrono::seconds timeout) : launch_(launch) {
  silence_engine();
  board_ = std::make_unique<Board>(launch_, timeout);
}

Peers::~Peers() {
  watcher_ = {};
  leave();
}

void Peers::watch(std::chrono::seconds patience, std::function<void(const Verdict&)> end) {
  watcher_ = std::jthread([this, patience, end = std::move(end)](const std::stop_token& stop) {
    auto sound_at = Clock::now();
    while (!stop.stop_requested() && !is_diagnosing_) {
      if (!board_->view().is_broken()) sound_at = Clock::now();
      if (Clock::now() - sound_at > patience) {
        if (is_diagnosing_.exchange(true)) return;
        end(find_cause({"it does not come back", ExitCode::kFailed, /*is_of_peer=*/true}));
      }
      std::this_thread::sleep_for(Board::kPoll);
    }
  });
}

bool Peers::should_report(const Verdict& verdict) const {
  const auto until = Clock::now() + kReportWait;
  const auto is_reported = [&] {
    const auto view = board_->fresh_view();
    return std::any_of(view.peers.begin(), view.peers.end(),
                       [](const Board::Seen& peer) { return peer.notice.reported; });
  };
  if (verdict.reporter == launch_.rank) return !is_reported();
  while (!is_reported() && Clock::now() < until) std::this_thread::sleep_for(Board::kPoll);
  return false;
}

void Peers::mark_reported() {
  board_->change([](auto& notice) { notice.reported = true; });
}

void Peers::leave() {
  board_->change([](auto& notice) { notice.left = true; });
  const auto until = Clock::now() + Board::kServeAfterExit;
  const bool serves = launch_.is_rank_0() && !launch_.agent_listens;
  while (serves && Clock::now() < until) {
    const auto view = board_->view();
    const auto is_done = [&](int rank, const auto& notice) {
      return rank == launch_.rank || view.is_gone(rank) || notice.left;
    };
    if (all_ranks(view, is_done)) break;
    std::this_thread::sleep_for(Board::kPoll);
  }
}

const std::string& Peers::launch_id() const { return board_->launch_id(); }

c10::intrusive_ptr<c10d::Store> Peers::store(const std::string& group) const {
  return board_->store(group);
}

void Peers::post(const std::string& name, const std::string& value) { board_->post(name, value); }

void Peers::withdraw(const std::string& name) { board_->withdraw(name); }

std::string Peers::await(int rank, const std::string& name) const {
  while (true) {
    if (auto value = board_->posted(rank, name)) return *value;
    const auto view = board_->view();
    if (!view.gone.empty()) throw PeerFailure("waiting for " + ranks_text(view.gone));
    for (const auto& peer : view.peers) {
      if (peer.notice.failure) throw PeerFailure("another process failed");
    }
    if (view.peers[static_cast<size_t>(rank)].notice.left)
      throw PeerFailure(c10::str("rank ", rank, " left without posting ", name));
    std::this_thread::sleep_for(Board::kPoll);
  }
}

void Peers::require_equal(const std::string& name,
                          const std::map<std::string, std::string>& values) {
  using Values = std::map<std::string, std::string>;
  post(name, nlohmann::json(values).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  Complaints complaints;
  const auto first = nlohmann::json::parse(await(0, name)).get<Values>();
  for (int other = 1; other < launch_.size; ++other) {
    const auto theirs = nlohmann::json::parse(await(other, name)).get<Values>();
    for (const auto& [key, value] : first) {
      const auto found = theirs.find(key);
      const auto text = found == theirs.end() ? std::string("nothing") : found->second;
      if (text == value) continue;
      complaints.add(c10::str(key, " is ", value, " on rank 0, ", text, " on rank ", other));
    }
  }
  complaints.throw_if_any("the processes differ",
                          "Start all of them with the same program, config and data.",
                          ExitCode::kBadRequest);
}

void Peers::report_failure(const Failure& failure) {
  auto shortened = failure;
  if (shortened.message.size() > kMostOfMessage) shortened.message.resize(kMostOfMessage);
  board_->change([&](auto& notice) { notice.failure = shortened; });
}

Verdict Peers::diagnose(const Failure& failure) {
  while (is_diagnosing_.exchange(true))
    std::this_thread::sleep_for(kDiagnosis);  // the watcher ends the process
  return find_cause(failure);
}

Verdict Peers::find_cause(const Failure& failure) {
  report_failure(failure);
  const auto until = Clock::now() + kDiagnosis;
  auto view = board_->fresh_view();
  const auto is_settled = [&] {
    return all_ranks(view, [&](int rank, const auto& notice) {
      return notice.failure || notice.left || view.is_gone(rank);
    });
  };
  while (!is_settled() && Clock::now() < until) {
    std::this_thread::sleep_for(Board::kPoll);
    view = board_->fresh_view();
  }
  auto verdict = verdict_on(view, failure);
  // Processes that wait in a collective learn of the failure only when this process exits.
  const bool some_wait = view.store_answers && !is_settled();
  if (some_wait && !failure.is_of_peer) verdict.reporter = launch_.rank;
  return verdict;
}

}  // namespace regroup
