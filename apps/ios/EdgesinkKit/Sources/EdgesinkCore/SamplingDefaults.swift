/// The sampling that a model's makers recommend. The twin of `edgesink/sampling_defaults.py`.
public struct SamplingDefaults: Equatable, Sendable {
    public let temperature: Double  // 0 always takes the most likely token
    public let topK: Int  // 0 keeps all
    public let topP: Double  // above 0, at most 1; 1 keeps all
    public let minP: Double  // 0 or more, below 1; 0 keeps all
    public let repetitionPenalty: Double  // 1 is none
    public let source: String  // where it is written, for people

    /// How a conversation is sampled with a model that has no recommendation.
    public static let chat = SamplingDefaults(
        temperature: 0.7, topK: 0, topP: 0.9, minP: 0, repetitionPenalty: 1,
        source: "edgesink's own, as the model's makers recommend none")

    /// For people: "temperature 0.7, top-k 20, top-p 0.8, repetition penalty 1.1".
    public var words: String {
        let penalty = repetitionPenalty == 1 ? [] : ["repetition penalty \(repetitionPenalty)"]
        if temperature == 0 {
            return (["temperature 0 (always the most likely token)"] + penalty).joined(separator: ", ")
        }
        let filters = [
            topK == 0 ? nil : "top-k \(topK)", topP == 1 ? nil : "top-p \(topP)",
            minP == 0 ? nil : "min-p \(minP)",
        ]
        return (["temperature \(temperature)"] + filters.compactMap { $0 } + penalty).joined(separator: ", ")
    }
}

extension SamplingDefaults {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(
            json, place, ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "source"])
        temperature = try fields.double("temperature")
        topK = try fields.int("top_k")
        topP = try fields.double("top_p")
        minP = try fields.double("min_p")
        repetitionPenalty = try fields.double("repetition_penalty")
        source = try fields.string("source")
        try asBundleFault(place) { try SamplingSpec(self).check() }
    }
}

extension SamplingSpec {
    /// The model's own sampling; greedy where it has none.
    public init(_ defaults: SamplingDefaults?) {
        self.init()
        guard let defaults else { return }
        (temperature, topK, topP) = (defaults.temperature, defaults.topK, defaults.topP)
        (minP, repetitionPenalty) = (defaults.minP, defaults.repetitionPenalty)
    }
}
