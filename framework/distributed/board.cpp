#include "framework/distributed/board.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "framework/errors/error.h"

namespace regroup {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kRenewal{500};   // between renewals of a notice
constexpr milliseconds kSilence{3000};  // after which a process counts as gone

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

std::string join_key(int rank) { return c10::str("regroup/join/", rank); }
std::string accept_key(const std::string& number) { return "regroup/accept/" + number; }

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

Board::StorePointer connect(const Launch& launch, bool serve, milliseconds timeout) {
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
                (serve ? "cannot serve the store there: " : "cannot reach the store of rank 0: ") +
                    reason.substr(0, reason.find('\n')),
                "Check MASTER_ADDR and MASTER_PORT, that the port is free, and that every process "
                "was started.");
  }
}

/// Returns the result of call; throws PeerFailure where the store is gone.
template <typename Call>
auto through_store(const Call& call) {
  try {
    return call();
  } catch (const c10::Error&) {
    throw PeerFailure("the store of the processes no longer answers");
  }
}

}  // namespace

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

std::string Board::Notice::to_text() const {
  nlohmann::json json{{"renewals", renewals},
                      {"host", host},
                      {"process", process},
                      {"reported", reported},
                      {"left", left}};
  if (failure) {
    json["failure"] = {{"message", failure->message},
                       {"exit_code", static_cast<int>(failure->exit_code)},
                       {"is_of_peer", failure->is_of_peer}};
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Board::Notice Board::Notice::from_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  Notice notice{json.at("renewals"), json.at("host"), json.at("process"), {},
                json.at("reported"), json.at("left")};
  if (json.contains("failure")) {
    const auto& failure = json.at("failure");
    notice.failure = {failure.at("message"),
                      static_cast<ExitCode>(failure.at("exit_code").get<int>()),
                      failure.at("is_of_peer")};
  }
  return notice;
}

bool Board::View::is_gone(int rank) const {
  return std::find(gone.begin(), gone.end(), rank) != gone.end();
}

bool Board::View::is_broken() const {
  const auto failed = [](const Seen& peer) { return peer.notice.failure.has_value(); };
  return !gone.empty() || std::any_of(peers.begin(), peers.end(), failed);
}

Board::Board(const Launch& launch, milliseconds timeout)
    : launch_(launch),
      store_(connect(launch, launch.is_rank_0() && !launch.agent_listens, timeout)),
      posts_(connect(launch, false, timeout)),
      notices_(connect(launch, false, timeout)) {
  own_.host = host_name();
  own_.process = getpid();
  through_store([&] { join(timeout); });
  notices_->setTimeout(kSilence);
  thread_ = std::thread([this] { renew_until_stopped(); });
}

Board::~Board() {
  {
    const std::lock_guard lock(mutex_);
    own_.left = true;
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Board::StorePointer Board::store(const std::string& part) const {
  return c10::make_intrusive<c10d::PrefixStore>(key(part), store_);
}

Board::View Board::view() const {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  const bool store_answers = now - heard_ < kSilence;
  View view{seen_, {}, store_answers};
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

Board::View Board::fresh_view() {
  {
    std::unique_lock lock(mutex_);
    if (Clock::now() - heard_ > kRefresh) renew(lock);
  }
  return view();
}

/// Makes the thread post and read now, and waits for it.
void Board::renew(std::unique_lock<std::mutex>& lock) {
  const int64_t wanted = own_.renewals + 1;
  renew_now_ = true;
  changed_.notify_all();
  if (Clock::now() - heard_ > kSilence) return;
  changed_.wait_for(lock, kPostTimeout, [&] { return posted_ >= wanted; });
}

std::string Board::post_key(int rank, const std::string& name) const {
  return key(c10::str("post/", rank, "/", name));
}

void Board::post(const std::string& name, const std::string& value) {
  through_store([&] { posts_->set(post_key(launch_.rank, name), bytes_of(value)); });
}

void Board::withdraw(const std::string& name) {
  through_store([&] { return posts_->deleteKey(post_key(launch_.rank, name)); });
}

std::optional<std::string> Board::posted(int rank, const std::string& name) const {
  const auto key = post_key(rank, name);
  return through_store([&]() -> std::optional<std::string> {
    if (!posts_->check({key})) return std::nullopt;
    const auto value = posts_->get(key);
    return std::string(value.begin(), value.end());
  });
}

/// Finds the processes of this launch. Earlier launches may have left keys in the store of an
/// elastic launcher, and its count of restarts may differ between nodes. So each process posts a
/// random number, and rank 0 answers that number with the id of this launch.
void Board::join(milliseconds timeout) {
  const auto until = Clock::now() + timeout;
  const auto number = c10::str(std::random_device()(), "-", own_.process);
  notices_->set(join_key(launch_.rank), bytes_of(number));
  if (launch_.is_rank_0()) enter(number);
  while (Clock::now() < until) {
    if (launch_.is_rank_0()) {
      accept_ranks();
    } else if (launch_id_.empty() && notices_->check({accept_key(number)})) {
      enter(text_at(accept_key(number)));
    }
    if (!launch_id_.empty() && notices_->check(keys_)) return read();
    std::this_thread::sleep_for(kPoll);
  }
  refuse_absent();
}

void Board::enter(const std::string& launch_id) {
  launch_id_ = launch_id;
  for (int rank = 0; rank < launch_.size; ++rank) keys_.push_back(key(c10::str("notice/", rank)));
  notices_->set(keys_[static_cast<size_t>(launch_.rank)], bytes_of(own_.to_text()));
}

void Board::accept_ranks() {
  for (int rank = 1; rank < launch_.size; ++rank) {
    if (!notices_->check({join_key(rank)})) continue;
    const auto number = text_at(join_key(rank));
    if (accepted_.insert(number).second) notices_->set(accept_key(number), bytes_of(launch_id_));
  }
}

std::string Board::text_at(const std::string& name) const {
  const auto value = notices_->get(name);
  return {value.begin(), value.end()};
}

/// The lowest rank that has joined throws the Error that names the missing ranks.
void Board::refuse_absent() const {
  std::vector<int> absent;
  for (int rank = 0; rank < launch_.size; ++rank) {
    const auto rank_key = launch_id_.empty() ? join_key(rank) : keys_[static_cast<size_t>(rank)];
    const bool is_silent_rank_0 = launch_id_.empty() && rank == 0;
    if (is_silent_rank_0 || !notices_->check({rank_key})) absent.push_back(rank);
  }
  int reporter = 0;
  while (std::find(absent.begin(), absent.end(), reporter) != absent.end()) ++reporter;
  if (reporter != launch_.rank) throw PeerFailure(ranks_text(absent) + " did not come");
  std::this_thread::sleep_for(
      kServeAfterExit);  // other ranks read the store that this process serves
  throw Error("start", ranks_text(absent) + " did not come",
              c10::str("All ", launch_.size,
                       " processes must be started, each with its own RANK, and reach ",
                       launch_.address, ":", launch_.port, "."));
}

void Board::read() {
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

void Board::renew_until_stopped() {
  std::unique_lock lock(mutex_);
  while (true) {
    const bool last = stopping_;
    const int64_t number = ++own_.renewals;
    renew_now_ = false;
    const auto text = own_.to_text();
    lock.unlock();
    bool is_posted = false;
    try {
      notices_->set(keys_[static_cast<size_t>(launch_.rank)], bytes_of(text));
      read();
      is_posted = true;
    } catch (const std::exception&) {
      std::this_thread::sleep_for(kPoll);  // view() measures how long the store has been silent
    }
    lock.lock();
    if (is_posted) posted_ = number;
    changed_.notify_all();
    if (last) return;
    changed_.wait_for(lock, kRenewal, [this] { return stopping_ || renew_now_; });
  }
}

}  // namespace regroup
