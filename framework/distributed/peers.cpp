#include "framework/distributed/peers.h"

#include <c10/util/Logging.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace regroup {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using StorePointer = c10::intrusive_ptr<c10d::Store>;

constexpr milliseconds kRenewal{500};    // of a notice
constexpr milliseconds kSilence{3000};   // after which a process counts as gone
constexpr milliseconds kSettling{4500};  // the longest that settle() looks around
constexpr milliseconds kFarewell{2000};  // that the store is served for after this process is done
constexpr milliseconds kPoll{50};
constexpr size_t kMostOfMessage = 2500;

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

std::string join_key(int rank) { return c10::str("regroup/join/", rank); }
std::string accept_key(const std::string& number) { return "regroup/accept/" + number; }

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

StorePointer connect(const Launch& launch, bool serve, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = launch.port;
  options.isServer = serve;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  } catch (const c10::Error& error) {
    const std::string reason = error.what_without_backtrace();
    throw Error(c10::str("rank ", launch.rank, ", ", launch.address, ":", launch.port),
                (serve ? "can't serve the processes there: " : "can't reach the first process: ") +
                    reason.substr(0, reason.find('\n')),
                "Check MASTER_ADDR and MASTER_PORT, that the port is free, and that every process "
                "was started.");
  }
}

/// c10d logs stack traces of connections that break, and NCCL's watchdog aborts the process;
/// settle() says what they come to. What the user has set stays.
void silence_engine() {
  setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
  c10::initLogging();
}

/// What a call of the store gives; where the store is gone that is a PeerFailure.
template <typename Call>
auto through_store(const Call& call) {
  try {
    return call();
  } catch (const c10::Error&) {
    throw PeerFailure("the store of the processes no longer answers");
  }
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

/// All notices as last seen, and our own, which a thread renews. It alone reads and writes notices
/// in the store, which may hang with the process that serves it; what others read of the board
/// never does.
class Peers::Board {
 public:
  /// What a process says of itself.
  struct Notice {
    int64_t renewals = 0;
    std::string host;
    int64_t process = 0;
    std::optional<Failure> failure;
    bool left = false;

    std::string to_text() const {
      nlohmann::json json{
          {"renewals", renewals}, {"host", host}, {"process", process}, {"left", left}};
      if (failure) {
        json["failure"] = {{"message", failure->message},
                           {"exit_code", static_cast<int>(failure->exit_code)},
                           {"is_of_peer", failure->is_of_peer}};
      }
      return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
    static Notice from_text(const std::string& text) {
      const auto json = nlohmann::json::parse(text);
      Notice notice{json.at("renewals"), json.at("host"), json.at("process"), {}, json.at("left")};
      if (json.contains("failure")) {
        const auto& failure = json.at("failure");
        notice.failure = {failure.at("message"),
                          static_cast<ExitCode>(failure.at("exit_code").get<int>()),
                          failure.at("is_of_peer")};
      }
      return notice;
    }
  };
  struct Seen {
    Notice notice;
    Clock::time_point changed;
  };

  Board(const Launch& launch, milliseconds timeout)
      : launch_(launch),
        store_(connect(launch, launch.is_first() && !launch.agent_listens, timeout)),
        posts_(connect(launch, false, timeout)),
        notices_(connect(launch, false, timeout)) {
    own_.host = host_name();
    own_.process = getpid();
    through_store([&] { join(timeout); });
    notices_->setTimeout(kSilence);
    thread_ = std::thread([this] { keep(); });
  }

  ~Board() {
    {
      const std::lock_guard lock(mutex_);
      own_.left = true;
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  const std::string& meeting() const { return meeting_; }
  /// A key of this start's own.
  std::string key(const std::string& name) const { return "regroup/" + meeting_ + "/" + name; }
  const StorePointer& store() const { return store_; }
  const StorePointer& posts() const { return posts_; }

  template <typename Change>
  void change(const Change& change) {
    {
      const std::lock_guard lock(mutex_);
      change(own_);
      renew_now_ = true;
    }
    changed_.notify_all();
  }

  /// All notices, as of now, and which processes count as gone: silent though they never
  /// said that they failed or left.
  struct View {
    std::vector<Seen> peers;
    std::vector<int> gone;
    bool is_gone(int rank) const { return std::find(gone.begin(), gone.end(), rank) != gone.end(); }
  };
  View view() const {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    const bool store_answers = now - heard_ < kSilence;
    View view{seen_, {}};
    for (int rank = 0; rank < launch_.size; ++rank) {
      const auto& [notice, changed] = seen_[static_cast<size_t>(rank)];
      if (rank == launch_.rank || notice.failure || notice.left) continue;
      const bool serves = rank == 0 && !launch_.agent_listens;
      const bool is_silent =
          store_answers ? now - changed > kSilence : serves || heard_ - changed > kSilence;
      if (is_silent) view.gone.push_back(rank);
    }
    return view;
  }

 private:
  /// Finds the processes of this start. Those of an earlier one may have left keys in the store of
  /// an elastic launcher, whose own count of starts differs between nodes: so the first process
  /// accepts each other by a number that it has just made up, and tells it where this start meets.
  void join(milliseconds timeout) {
    const auto until = Clock::now() + timeout;
    const auto number = c10::str(std::random_device()(), "-", own_.process);
    notices_->set(join_key(launch_.rank), bytes_of(number));
    if (launch_.is_first()) enter(number);
    while (Clock::now() < until) {
      if (launch_.is_first()) {
        accept_others();
      } else if (meeting_.empty() && notices_->check({accept_key(number)})) {
        enter(text_at(accept_key(number)));
      }
      if (!meeting_.empty() && notices_->check(keys_)) return read();
      std::this_thread::sleep_for(kPoll);
    }
    refuse_absent();
  }

  void enter(const std::string& meeting) {
    meeting_ = meeting;
    for (int rank = 0; rank < launch_.size; ++rank) keys_.push_back(key(c10::str("notice/", rank)));
    notices_->set(keys_[static_cast<size_t>(launch_.rank)], bytes_of(own_.to_text()));
  }

  void accept_others() {
    for (int rank = 1; rank < launch_.size; ++rank) {
      if (!notices_->check({join_key(rank)})) continue;
      const auto number = text_at(join_key(rank));
      if (accepted_.insert(number).second) notices_->set(accept_key(number), bytes_of(meeting_));
    }
  }

  std::string text_at(const std::string& name) const {
    const auto value = notices_->get(name);
    return {value.begin(), value.end()};
  }

  /// The lowest of those that came says who did not.
  [[noreturn]] void refuse_absent() const {
    std::vector<int> absent;
    for (int rank = 0; rank < launch_.size; ++rank) {
      const auto rank_key = meeting_.empty() ? join_key(rank) : keys_[static_cast<size_t>(rank)];
      const bool is_mute_first = meeting_.empty() && rank == 0;
      if (is_mute_first || !notices_->check({rank_key})) absent.push_back(rank);
    }
    int speaking = 0;
    while (std::find(absent.begin(), absent.end(), speaking) != absent.end()) ++speaking;
    if (speaking != launch_.rank) throw PeerFailure(ranks_text(absent) + " did not come");
    std::this_thread::sleep_for(kFarewell);  // others look for themselves, in the store served here
    throw Error("start", ranks_text(absent) + " did not come",
                c10::str("All ", launch_.size,
                         " processes must be started, each with its own RANK, and reach ",
                         launch_.address, ":", launch_.port, "."));
  }

  void read() {
    const auto texts = notices_->multiGet(keys_);
    const std::lock_guard lock(mutex_);
    heard_ = Clock::now();
    seen_.resize(texts.size());
    for (size_t rank = 0; rank < texts.size(); ++rank) {
      auto notice = Notice::from_text({texts[rank].begin(), texts[rank].end()});
      if (notice.renewals != seen_[rank].notice.renewals || seen_[rank].notice.host.empty())
        seen_[rank] = {std::move(notice), heard_};
    }
  }

  /// The thread's work.
  void keep() {
    std::unique_lock lock(mutex_);
    while (true) {
      const bool last = stopping_;
      ++own_.renewals;
      renew_now_ = false;
      const auto text = own_.to_text();
      lock.unlock();
      try {
        notices_->set(keys_[static_cast<size_t>(launch_.rank)], bytes_of(text));
        read();
      } catch (const std::exception&) {
        std::this_thread::sleep_for(kPoll);  // view() notices how long nothing was heard
      }
      lock.lock();
      if (last) return;
      changed_.wait_for(lock, kRenewal, [this] { return stopping_ || renew_now_; });
    }
  }

  const Launch& launch_;
  // A connection for each use: what waits on one must not hold up the others.
  StorePointer store_, posts_, notices_;
  std::string meeting_;             // of this start's processes
  std::set<std::string> accepted_;  // the first one's: numbers of those that joined
  std::vector<std::string> keys_;   // of the notices
  mutable std::mutex mutex_;        // guards what follows
  std::condition_variable changed_;
  Notice own_;
  std::vector<Seen> seen_;
  Clock::time_point heard_;
  bool renew_now_ = false, stopping_ = false;
  std::thread thread_;  // last, so that it starts when all else is there
};

namespace {

/// The lowest rank that is left: the one that speaks.
template <typename View>
int speaker(const View& view) {
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    const auto& notice = view.peers[static_cast<size_t>(rank)].notice;
    const bool is_done = notice.left && !notice.failure;
    if (!view.is_gone(rank) && !is_done) return rank;
  }
  return 0;
}

/// The lowest rank with a failure of its own: the one to show.
template <typename View>
std::optional<int> first_failed(const View& view) {
  for (size_t rank = 0; rank < view.peers.size(); ++rank) {
    const auto& failure = view.peers[rank].notice.failure;
    if (failure && !failure->is_of_peer) return static_cast<int>(rank);
  }
  return std::nullopt;
}

template <typename View>
std::string gone_text(const View& view, const std::string& symptom) {
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
template <typename View>
Verdict verdict_on(const View& view, const Failure& own, int rank) {
  Verdict verdict{own.message, own.exit_code};
  if (const auto failed = first_failed(view)) {
    const auto& failure = *view.peers[static_cast<size_t>(*failed)].notice.failure;
    verdict.message = failure.message;
    if (*failed != rank) verdict.message = c10::str("rank ", *failed, ": ", failure.message);
    verdict.exit_code = failure.exit_code;
  } else if (!view.gone.empty()) {
    verdict.message = gone_text(view, own.message);
  } else if (own.is_of_peer) {
    verdict.message =
        c10::str("the processes lost touch, though all of them are alive: ", own.message,
                 ". A step may take longer than dist.timeout_s, or the network drops connections.");
  }
  verdict.is_to_be_told = speaker(view) == rank;
  return verdict;
}

/// True where some process failed or is gone.
template <typename View>
bool is_broken(const View& view) {
  const auto failed = [](const auto& peer) { return peer.notice.failure.has_value(); };
  return !view.gone.empty() || std::any_of(view.peers.begin(), view.peers.end(), failed);
}

}  // namespace

Peers::Peers(const Launch& launch, std::chrono::seconds timeout) : launch_(launch) {
  silence_engine();
  board_ = std::make_unique<Board>(launch_, timeout);
}

Peers::~Peers() { leave(); }

void Peers::guard(std::chrono::seconds patience, std::function<void(const Verdict&)> end) {
  guard_ = std::jthread([this, patience, end = std::move(end)](const std::stop_token& stop) {
    auto sound_at = Clock::now();
    while (!stop.stop_requested() && !is_settling_) {
      if (!is_broken(board_->view())) sound_at = Clock::now();
      if (Clock::now() - sound_at > patience)
        end(settle({"it does not come back", ExitCode::kFailed, /*is_of_peer=*/true}));
      std::this_thread::sleep_for(kPoll);
    }
  });
}

void Peers::leave() {
  guard_ = {};
  board_->change([](auto& notice) { notice.left = true; });
  const auto until = Clock::now() + kFarewell;
  const bool serves = launch_.is_first() && !launch_.agent_listens;
  while (serves && Clock::now() < until) {
    const auto view = board_->view();
    const auto is_done = [&](int rank) {
      return rank == launch_.rank || view.is_gone(rank) ||
             view.peers[static_cast<size_t>(rank)].notice.left;
    };
    bool all_done = true;
    for (int rank = 0; rank < launch_.size; ++rank) all_done = all_done && is_done(rank);
    if (all_done) break;
    std::this_thread::sleep_for(kPoll);
  }
}

const std::string& Peers::meeting() const { return board_->meeting(); }

StorePointer Peers::store(const std::string& group) const {
  return c10::make_intrusive<c10d::PrefixStore>(board_->key(group), board_->store());
}

void Peers::post(const std::string& name, const std::string& value) {
  const auto key = board_->key(c10::str("post/", launch_.rank, "/", name));
  through_store([&] { board_->posts()->set(key, bytes_of(value)); });
}

void Peers::withdraw(const std::string& name) {
  const auto key = board_->key(c10::str("post/", launch_.rank, "/", name));
  through_store([&] { return board_->posts()->deleteKey(key); });
}

std::string Peers::await(int rank, const std::string& name) const {
  const auto key = board_->key(c10::str("post/", rank, "/", name));
  while (!through_store([&] { return board_->posts()->check({key}); })) {
    const auto view = board_->view();
    if (!view.gone.empty()) throw PeerFailure("waiting for " + ranks_text(view.gone));
    for (const auto& peer : view.peers) {
      if (peer.notice.failure) throw PeerFailure("another process failed");
    }
    if (view.peers[static_cast<size_t>(rank)].notice.left)
      throw PeerFailure(c10::str("rank ", rank, " left without posting ", name));
    std::this_thread::sleep_for(kPoll);
  }
  const auto value = through_store([&] { return board_->posts()->get(key); });
  return {value.begin(), value.end()};
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

Verdict Peers::settle(const Failure& failure) {
  while (is_settling_.exchange(true)) std::this_thread::sleep_for(kSettling);  // the guard ends it
  auto told = failure;
  if (told.message.size() > kMostOfMessage) told.message.resize(kMostOfMessage);
  board_->change([&](auto& notice) { notice.failure = told; });
  const auto until = Clock::now() + kSettling;
  auto view = board_->view();
  const auto is_settled = [&] {
    for (int rank = 0; rank < launch_.size; ++rank) {
      const auto& notice = view.peers[static_cast<size_t>(rank)].notice;
      if (!notice.failure && !notice.left && !view.is_gone(rank)) return false;
    }
    return true;
  };
  while (!is_settled() && Clock::now() < until) {
    std::this_thread::sleep_for(kPoll);
    view = board_->view();
  }
  return verdict_on(view, failure, launch_.rank);
}

}  // namespace regroup
