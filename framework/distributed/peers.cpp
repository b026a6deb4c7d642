#include "framework/distributed/peers.h"

#include <c10/util/Logging.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
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

/// What a process says of itself.
struct Notice {
  int64_t renewals = 0;
  std::string host;
  int64_t process = 0;
  std::map<std::string, std::string> posts;
  std::optional<Failure> failure;
  bool left = false;

  std::string to_text() const {
    nlohmann::json json{{"renewals", renewals},
                        {"host", host},
                        {"process", process},
                        {"posts", posts},
                        {"left", left}};
    if (failure) {
      json["failure"] = {{"message", failure->message},
                         {"exit_code", static_cast<int>(failure->exit_code)},
                         {"is_of_peer", failure->is_of_peer}};
    }
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  static Notice from_text(const std::string& text) {
    const auto json = nlohmann::json::parse(text);
    Notice notice{json.at("renewals"), json.at("host"), json.at("process"), json.at("posts"), {},
                  json.at("left")};
    if (json.contains("failure")) {
      const auto& failure = json.at("failure");
      notice.failure = {failure.at("message"),
                        static_cast<ExitCode>(failure.at("exit_code").get<int>()),
                        failure.at("is_of_peer")};
    }
    return notice;
  }
};

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

StorePointer connect(const Launch& launch, bool serve, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = launch.port;
  options.isServer = serve;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        "regroup/" + launch.attempt, c10::make_intrusive<c10d::TCPStore>(launch.address, options));
  } catch (const c10::Error& error) {
    const std::string reason = error.what_without_backtrace();
    throw Error(c10::str("rank ", launch.rank, ", ", launch.address, ":", launch.port),
                (serve ? "can't serve the processes there: " : "can't reach the first process: ") +
                    reason.substr(0, reason.find('\n')),
                "Check MASTER_ADDR and MASTER_PORT, that the port is free, and that every process "
                "was started.");
  }
}

/// c10d logs stack traces of connections that break; settle() says what they come to. A level that
/// the user has set stays.
void silence_engine() {
  setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
  c10::initLogging();
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

/// All notices as last seen, and our own, which a thread renews. The thread alone speaks with the
/// store from then on, which may hang with the process that serves it; what others read of the
/// board never does.
class Peers::Board {
 public:
  struct Seen {
    Notice notice;
    Clock::time_point changed;
  };

  Board(const Launch& launch, milliseconds timeout)
      : launch_(launch),
        store_(connect(launch, launch.is_first() && !launch.agent_listens, timeout)),
        notices_(connect(launch, false, timeout)) {
    own_.host = host_name();
    own_.process = getpid();
    for (int rank = 0; rank < launch.size; ++rank) keys_.push_back(c10::str("notice/", rank));
    gather(timeout);
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

  const StorePointer& store() const { return store_; }

  template <typename Change>
  void change(const Change& change) {
    {
      const std::lock_guard lock(mutex_);
      change(own_);
      renew_now_ = true;
    }
    changed_.notify_all();
  }

  /// While it lives notices are read more often: somebody waits for one.
  std::shared_ptr<void> watch() {
    ++watchers_;
    change([](Notice&) {});
    return {nullptr, [this](void*) { --watchers_; }};
  }

  /// What all have posted, as of now, and which of them count as gone: silent though they never
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
  /// Waits for the first notice of each.
  void gather(milliseconds timeout) {
    notices_->set(keys_[static_cast<size_t>(launch_.rank)], bytes_of(own_.to_text()));
    try {
      notices_->wait(keys_, timeout);
    } catch (const c10::Error&) {
      throw Error("start", ranks_text(missing()) + " did not come",
                  c10::str("All ", launch_.size,
                           " processes must be started, each with its own "
                           "RANK, and reach ",
                           launch_.address, ":", launch_.port, "."));
    }
    read();
  }

  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (int rank = 0; rank < launch_.size; ++rank) {
      if (!notices_->check({keys_[static_cast<size_t>(rank)]})) ranks.push_back(rank);
    }
    return ranks;
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
      changed_.wait_for(lock, watchers_ > 0 ? kPoll : kRenewal,
                        [this] { return stopping_ || renew_now_; });
    }
  }

  const Launch& launch_;
  StorePointer store_, notices_;  // two connections: what waits on one must not hold up the other
  std::vector<std::string> keys_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Notice own_;
  std::vector<Seen> seen_;
  Clock::time_point heard_;
  bool renew_now_ = false, stopping_ = false;
  std::atomic<int> watchers_{0};
  std::thread thread_;  // last, so that it starts when all else is there
};

namespace {

/// The lowest rank that is not gone: the one that speaks.
template <typename View>
int speaker(const View& view) {
  int rank = 0;
  while (view.is_gone(rank)) ++rank;
  return rank;
}

/// The failure to show: one that is a process's own, the lowest rank's. Its exit code is the
/// speaker's too.
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

}  // namespace

Peers::Peers(const Launch& launch, std::chrono::seconds timeout) : launch_(launch) {
  silence_engine();
  board_ = std::make_unique<Board>(launch_, timeout);
}

Peers::~Peers() { leave(); }

void Peers::leave() {
  board_->change([](Notice& notice) { notice.left = true; });
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

StorePointer Peers::store(const std::string& group) const {
  return c10::make_intrusive<c10d::PrefixStore>(group, board_->store());
}

void Peers::post(const std::string& name, const std::string& value) {
  board_->change([&](Notice& notice) { notice.posts[name] = value; });
}

void Peers::withdraw(const std::string& name) {
  board_->change([&](Notice& notice) { notice.posts.erase(name); });
}

std::string Peers::await(int rank, const std::string& name) const {
  const auto watching = board_->watch();
  while (true) {
    const auto view = board_->view();
    const auto& posts = view.peers[static_cast<size_t>(rank)].notice.posts;
    const auto found = posts.find(name);
    if (found != posts.end()) return found->second;
    if (!view.gone.empty()) throw PeerFailure("waiting for " + ranks_text(view.gone));
    for (const auto& peer : view.peers) {
      if (peer.notice.failure) throw PeerFailure("another process failed");
    }
    if (view.peers[static_cast<size_t>(rank)].notice.left)
      throw PeerFailure(c10::str("rank ", rank, " left without posting ", name));
    std::this_thread::sleep_for(kPoll);
  }
}

std::optional<std::string> Peers::settle(const Failure& failure) {
  auto told = failure;
  if (told.message.size() > kMostOfMessage) told.message.resize(kMostOfMessage);
  board_->change([&](Notice& notice) { notice.failure = told; });
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
  if (speaker(view) != launch_.rank) return std::nullopt;
  if (const auto failed = first_failed(view); failed && *failed != launch_.rank) {
    return c10::str("rank ", *failed, ": ",
                    view.peers[static_cast<size_t>(*failed)].notice.failure->message);
  }
  if (!failure.is_of_peer) return failure.message;
  if (!view.gone.empty()) return gone_text(view, failure.message);
  return c10::str(
      "the processes lost touch, though all of them are alive: ", failure.message,
      ". A step may take longer than dist.timeout_s, or the network drops connections.");
}

}  // namespace regroup
