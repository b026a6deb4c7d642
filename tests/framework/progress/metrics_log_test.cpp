#include "framework/progress/metrics_log.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

using testing::contents_of;
using testing::TempFolder;

TEST_CASE("a metrics line is one JSON object with its fields in order", "[metrics]") {
  const TempFolder folder;
  MetricsLog log(folder / "metrics.jsonl");
  log.append({{"step", 3}, {"loss", 2.5}, {"note", "a \"b\"\n"}});
  CHECK(contents_of(folder / "metrics.jsonl") ==
        "{\"step\": 3, \"loss\": 2.5, \"note\": \"a \\\"b\\\"\\n\"}\n");
}

TEST_CASE("metrics read back exactly", "[metrics]") {
  const double value = GENERATE(1.0 / 3, 0.1f, 5e-324, 1.7976931348623157e308, -0.0, 12345678.9);
  const TempFolder folder;
  MetricsLog(folder / "metrics.jsonl").append({{"step", 1}, {"loss", value}});
  const auto record = nlohmann::json::parse(contents_of(folder / "metrics.jsonl"));
  CHECK(record["loss"].get<double>() == value);
}

TEST_CASE("numbers that are not finite are written as strings", "[metrics]") {
  const TempFolder folder;
  const double infinity = std::numeric_limits<double>::infinity();
  MetricsLog(folder / "metrics.jsonl")
      .append({{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}});
  CHECK(contents_of(folder / "metrics.jsonl") ==
        "{\"a\": \"NaN\", \"b\": \"Infinity\", \"c\": \"-Infinity\"}\n");
}

TEST_CASE("resume drops torn lines and lines past the checkpoint", "[metrics]") {
  const TempFolder folder;
  const auto file = folder.write("metrics.jsonl",
                                 "{\"step\": 1, \"loss\": 3}\n"
                                 "{\"step\": 2, \"lo\n"
                                 "no JSON\n"
                                 "{\"loss\": 3}\n"
                                 "{\"step\": 2, \"loss\": 2.5}\n"
                                 "{\"step\": 3, \"loss\": 2.25}\n"
                                 "{\"step\": 2, \"val_loss\": 2.75}\n"
                                 "{\"step\": 2}");
  MetricsLog::resume(file, 2).append({{"step", 3}});
  CHECK(contents_of(file) ==
        "{\"step\": 1, \"loss\": 3}\n"
        "{\"step\": 2, \"loss\": 2.5}\n"
        "{\"step\": 2, \"val_loss\": 2.75}\n"
        "{\"step\": 3}\n");
}

TEST_CASE("resume without a metrics file starts one", "[metrics]") {
  const TempFolder folder;
  MetricsLog::resume(folder / "metrics.jsonl", 7).append({{"step", 8}});
  CHECK(contents_of(folder / "metrics.jsonl") == "{\"step\": 8}\n");
}

TEST_CASE("metrics that cannot be written name the file and the reason", "[metrics]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(MetricsLog(folder / "none" / "metrics.jsonl"),
                    Contains("metrics.jsonl") && Contains("No such file"));
  MetricsLog full("/dev/full");
  const MetricFields line = {{"step", 1}};
  CHECK_THROWS_WITH(full.append(line), Contains("/dev/full") && Contains("No space left"));
}

}  // namespace
}  // namespace regroup
