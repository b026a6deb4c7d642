#include "framework/files/safetensors.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "framework/errors/error.h"
#include "framework/files/atomic_write.h"
#include "framework/files/json.h"
#include "framework/tensors/dtype.h"

namespace regroup {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr size_t kLengthBytes = 8;  // the file starts with the header's length, uint64
constexpr size_t kMostHeaderBytes = 100'000'000;  // as in the reference implementation
constexpr size_t kHeaderDepth = 4;                // {name: {shape: [..]}} needs 3
constexpr size_t kMostAxes = 16;
constexpr const char* kMetadata = "__metadata__";

/// Reads and checks one file's header.
class HeaderReader {
 public:
  explicit HeaderReader(const MappedFile& map) : map_(map), where_(map.path().string()) {}

  std::map<std::string, TensorEntry> read() {
    std::map<std::string, TensorEntry> entries;
    const json header = parse_header();
    for (const auto& [name, value] : header.items()) {
      if (name == kMetadata) {
        check_metadata(value);
      } else {
        entries.emplace(name, read_entry(name, value));
      }
    }
    complaints_.throw_if_any(where_, kDamagedFile);
    check_ranges(entries);
    complaints_.throw_if_any(where_, kDamagedFile);
    return entries;
  }

 private:
  json parse_header() {
    if (map_.size() < kLengthBytes) {
      throw Error(where_, c10::str("has ", map_.size(), " bytes, too few for a safetensors header"),
                  kDamagedFile);
    }
    uint64_t length = 0;
    std::memcpy(&length, map_.data(), kLengthBytes);
    if (length > map_.size() - kLengthBytes) {
      throw Error(where_,
                  c10::str("its header claims ", length, " bytes, but ", map_.size() - kLengthBytes,
                           " follow its length"),
                  kDamagedFile);
    }
    if (length > kMostHeaderBytes) {
      throw Error(where_,
                  c10::str("its header claims ", length, " bytes, the format's limit is ",
                           kMostHeaderBytes),
                  kDamagedFile);
    }
    data_begin_ = kLengthBytes + length;
    const std::string_view text(reinterpret_cast<const char*>(map_.data()) + kLengthBytes, length);
    auto header = parse_json(text, where_ + " (header)", {kMostHeaderBytes, kHeaderDepth});
    if (!header.is_object()) throw Error(where_, "its header is not a JSON object", kDamagedFile);
    return header;
  }

  void check_metadata(const json& value) {
    if (!value.is_object()) return complaints_.add("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) complaints_.add("__metadata__ " + key + " is not a string");
    }
  }

  /// Adds a complaint and returns an empty entry where the header's entry is unusable.
  TensorEntry read_entry(const std::string& name, const json& value) {
    TensorEntry entry{};
    try {
      const JsonObject object(value, "tensor " + name);
      const auto tag = object.string("dtype");
      const auto dtype = dtype_from_safetensors(tag);
      if (!dtype) object.refuse("dtype", "one of " + known_safetensors_tags());
      entry.dtype = *dtype;
      entry.shape = object.integers("shape", {.min = 0});
      if (entry.shape.size() > kMostAxes)
        object.refuse("shape", c10::str("at most ", kMostAxes, " axes"));
      const auto offsets = object.integers("data_offsets", {.min = 0});
      if (offsets.size() != 2) object.refuse("data_offsets", "two integers");
      const auto unread = object.unread_keys();
      if (!unread.empty()) object.refuse(unread[0], "only dtype, shape and data_offsets");
      check_size(name, entry, offsets[0], offsets[1]);
    } catch (const Error& error) {
      complaints_.add(error.what());
    }
    return entry;
  }

  void check_size(const std::string& name, TensorEntry& entry, int64_t begin, int64_t end) {
    const std::string range = c10::str("data_offsets [", begin, ", ", end, "]");
    const auto data_bytes = static_cast<int64_t>(map_.size() - data_begin_);
    const auto bytes = size_in_bytes(entry);
    if (begin > end) {
      complaints_.add(c10::str("tensor ", name, ": ", range, " run backwards"));
    } else if (end > data_bytes) {
      complaints_.add(c10::str("tensor ", name, ": ", range, " end after the file's ", data_bytes,
                               " bytes of data"));
    } else if (!bytes || *bytes != end - begin) {
      complaints_.add(c10::str("tensor ", name, ": ", range, " hold ", end - begin,
                               " bytes, but dtype ", dtype_info(entry.dtype).safetensors_tag,
                               " and shape ", c10::IntArrayRef(entry.shape), " need ",
                               bytes ? c10::str(*bytes) : "more than 2^63"));
    }
    entry.begin = data_begin_ + static_cast<size_t>(begin);
    entry.end = data_begin_ + static_cast<size_t>(end);
  }

  /// nullopt where the product of the sizes overflows. Zeros count as ones, because strides are
  /// products of the sizes too.
  static std::optional<int64_t> size_in_bytes(const TensorEntry& entry) {
    auto bytes = static_cast<int64_t>(c10::elementSize(entry.dtype));
    bool is_empty = false;
    for (const int64_t size : entry.shape) {
      is_empty = is_empty || size == 0;
      if (__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) return std::nullopt;
    }
    return is_empty ? 0 : bytes;
  }

  /// The ranges, in order, must tile the data exactly.
  void check_ranges(const std::map<std::string, TensorEntry>& entries) {
    std::vector<std::pair<const std::string*, const TensorEntry*>> order;
    for (const auto& [name, entry] : entries) order.emplace_back(&name, &entry);
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
    });
    size_t filled = data_begin_;
    for (const auto& [name, entry] : order) {
      if (entry->begin != filled) {
        complaints_.add(c10::str("tensor ", *name, ": its data begin at byte ",
                                 entry->begin - data_begin_, ", ",
                                 entry->begin < filled ? "inside" : "with a hole after",
                                 " the data before it, which end at byte ", filled - data_begin_));
      }
      filled = std::max(filled, entry->end);
    }
    if (filled != map_.size()) {
      complaints_.add(c10::str("its tensors end at byte ", filled - data_begin_, " of ",
                               map_.size() - data_begin_, " bytes of data"));
    }
  }

  const MappedFile& map_;
  std::string where_;
  size_t data_begin_ = 0;
  Complaints complaints_;
};

/// The header's JSON, padded with spaces so that the data begin at a multiple of 8 bytes.
std::string header_text(const std::vector<const TensorSource*>& order) {
  nlohmann::ordered_json header;
  header[kMetadata]["format"] = "pt";
  size_t offset = 0;
  for (const auto* source : order) {
    const size_t end = offset + source->bytes();
    header[source->name] = {{"dtype", dtype_info(source->dtype).safetensors_tag},
                            {"shape", source->shape},
                            {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  return text;
}

void write_data(AtomicFile& file, const TensorSource& source) {
  const auto tensor = source.load().cpu().contiguous();
  TORCH_CHECK(tensor.scalar_type() == source.dtype && tensor.sizes() == source.shape, source.name,
              " was announced as ", source.dtype, " ", c10::IntArrayRef(source.shape), " but is ",
              tensor.scalar_type(), " ", tensor.sizes());
  file.write(tensor.const_data_ptr(), tensor.nbytes());
}

}  // namespace

void write_safetensors(const fs::path& file, const std::vector<TensorSource>& tensors) {
  std::vector<const TensorSource*> order;
  std::set<std::string_view> names;
  for (const auto& source : tensors) {
    TORCH_CHECK(names.insert(source.name).second, "tensor ", source.name, " is written twice");
    order.push_back(&source);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return c10::elementSize(a->dtype) > c10::elementSize(b->dtype);
  });
  AtomicFile atomic(file);
  const std::string header = header_text(order);
  const uint64_t length = header.size();
  atomic.write(&length, sizeof length);
  atomic.write(header.data(), header.size());
  for (const auto* source : order) write_data(atomic, *source);
  atomic.commit();
}

SafetensorsFile SafetensorsFile::open(const fs::path& file) {
  SafetensorsFile opened;
  opened.map_ = MappedFile::open(file);
  opened.entries_ = HeaderReader(*opened.map_).read();
  return opened;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const std::vector<int64_t>& SafetensorsFile::shape(const std::string& name) const {
  return entries_.at(name).shape;
}

c10::ScalarType SafetensorsFile::dtype(const std::string& name) const {
  return entries_.at(name).dtype;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorEntry& entry = entries_.at(name);
  uint8_t* data = map_->data() + entry.begin;
  const auto options = at::TensorOptions().dtype(entry.dtype);
  if (entry.begin == entry.end) return at::empty(entry.shape, options);
  const bool is_bool = entry.dtype == at::kBool;
  const bool aligned = reinterpret_cast<uintptr_t>(data) % c10::elementSize(entry.dtype) == 0;
  if (aligned && !is_bool) {
    return at::from_blob(
        data, entry.shape, [map = map_, entry](void*) { map->release(entry.begin, entry.end); },
        options);
  }
  if (is_bool) {  // a byte other than 0 and 1 is not a valid bool
    return at::from_blob(data, entry.shape, at::TensorOptions().dtype(at::kByte)).ne(0);
  }
  auto copy = at::empty(entry.shape, options);
  std::memcpy(copy.data_ptr(), data, entry.end - entry.begin);
  return copy;
}

}  // namespace regroup
