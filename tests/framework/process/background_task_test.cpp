#include "framework/process/background_task.h"

#include <future>
#include <stdexcept>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("a background task runs beside its starter, one task at a time", "[background]") {
  BackgroundTask task;
  task.wait();  // nothing to wait for
  std::promise<void> gate;
  std::vector<int> order;
  task.start([&] {
    gate.get_future().wait();
    order.push_back(1);
  });
  task.check();  // not done: returns at once
  CHECK(order.empty());
  gate.set_value();
  task.start([&] { order.push_back(2); });
  task.wait();
  CHECK(order == std::vector<int>{1, 2});
}

TEST_CASE("waiting for a background task rethrows its exception, once", "[background]") {
  BackgroundTask task;
  task.start([] { throw std::runtime_error("no room"); });
  CHECK_THROWS_WITH(task.wait(), "no room");
  task.wait();
  task.start([] { throw std::runtime_error("again"); });
  CHECK_THROWS_WITH(task.start([] {}), "again");
}

}  // namespace
}  // namespace regroup
