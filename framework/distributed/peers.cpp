#include "framework/distributed/peers.h"

#include <c10/util/Logging.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"

namespace regroup {
namespace {

using Clock = Board::Clock;

constexpr Board::milliseconds kSettling{4000};  // the longest that settle() looks around
constexpr Board::milliseconds kTelling{900};    // the longest that a speaker is waited for
constexpr size_t kMostOfMessage = 2500;

/// c10d logs stack traces of connections that break, and NCCL's watchdog aborts the process;
/// settle() says what they come to. What the user has set stays.
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

/// Whether is_so(rank, its notice) holds for every process.
template <typename IsSo>
bool all_ranks(const Board::View& view, const IsSo& is_so) {
  int rank = 0;
  return std::all_of(view.peers.begin(), view.peers.end(),
                     [&](const Board::Seen& peer) { return is_so(rank++, peer.notice); });
}

bool is_own(const std::optional<Failure>& failure) { return failure && !failure->is_of_peer; }

/// All processes, of themselves: a request that none could carry out.
bool all_failed(const Board::View& view) {
  return all_ranks(view, [](int, const auto& notice) { return is_own(notice.failure); });
}

/// The lowest rank with a failure of its own: the one to show.
std::optional<int> first_failed(const Board::View& view) {
  for (size_t rank = 0; rank < view.peers.size(); ++rank) {
    const auto& failure = view.peers[rank].notice.failure;
    if (is_own(failure)) return static_cast<int>(rank);
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

/// What happened, by all notices and this process's own failure.
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
  verdict.speaker = lowest_left(view);
  return verdict;
}

}  // namespace

Peers::Peers(const Launch& launch, std::chrono::seconds timeout) : launch_(launch) {
  silence_engine();
  board_ = std::make_unique<Board>(launch_, timeout);
}

Peers::~Peers() {
  guard_ = {};
  leave();
}

void Peers::guard(std::chrono::seconds patience, std::function<void(const Verdict&)> end) {
  guard_ = std::jthread([this, patience, end = std::move(end)](const std::stop_token& stop) {
    auto sound_at = Clock::now();
    while (!stop.stop_requested() && !is_settling_) {
      if (!board_->view().is_broken()) sound_at = Clock::now();
      if (Clock::now() - sound_at > patience) {
        if (is_settling_.exchange(true)) return;
        end(look_around({"it does not come back", ExitCode::kFailed, /*is_of_peer=*/true}));
      }
      std::this_thread::sleep_for(Board::kPoll);
    }
  });
}

bool Peers::is_to_tell(const Verdict& verdict) const {
  const auto until = Clock::now() + kTelling;
  const auto someone_told = [&] {
    const auto view = board_->fresh_view();
    return std::any_of(view.peers.begin(), view.peers.end(),
                       [](const Board::Seen& peer) { return peer.notice.told; });
  };
  if (verdict.speaker == launch_.rank) return !someone_told();
  while (!someone_told() && Clock::now() < until) std::this_thread::sleep_for(Board::kPoll);
  return false;
}

void Peers::told() {
  board_->change([](auto& notice) { notice.told = true; });
}

void Peers::leave() {
  board_->change([](auto& notice) { notice.left = true; });
  const auto until = Clock::now() + Board::kFarewell;
  const bool serves = launch_.is_first() && !launch_.agent_listens;
  while (serves && Clock::now() < until) {
    const auto view = board_->view();
    const auto is_done = [&](int rank, const auto& notice) {
      return rank == launch_.rank || view.is_gone(rank) || notice.left;
    };
    if (all_ranks(view, is_done)) break;
    std::this_thread::sleep_for(Board::kPoll);
  }
}

const std::string& Peers::meeting() const { return board_->meeting(); }

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

void Peers::require_alike(const std::string& name,
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

void Peers::tell(const Failure& failure) {
  auto told = failure;
  if (told.message.size() > kMostOfMessage) told.message.resize(kMostOfMessage);
  board_->change([&](auto& notice) { notice.failure = told; });
}

Verdict Peers::settle(const Failure& failure) {
  while (is_settling_.exchange(true)) std::this_thread::sleep_for(kSettling);  // the guard ends it
  return look_around(failure);
}

Verdict Peers::look_around(const Failure& failure) {
  tell(failure);
  const auto until = Clock::now() + kSettling;
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
  // Others that wait in a collective do not know until this process ends.
  const bool others_wait = view.store_answers && !is_settled();
  if (others_wait && !failure.is_of_peer) verdict.speaker = launch_.rank;
  return verdict;
}

}  // namespace regroup
